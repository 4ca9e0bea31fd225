"""Themes of a user's own: chosen by name, told of in one line where they have a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.color import Color

from tests.ui.playing import Stage
from vllm_console.errors import InvalidInput
from vllm_console.ui import theme
from vllm_console.ui.palette import ThemeCommands
from vllm_console.ui.theme_files import chosen, own_names, themes_dir

ROW = (160, 48)
TEXTS = ("text", "value", "label", "dim", "ok", "warn", "crit", *theme.PANELS)


def written(folder: Path, text: str, name: str = "dusk") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_a_theme_changes_what_it_names_and_keeps_the_rest_of_its_base(tmp_path: Path) -> None:
    written(tmp_path, 'ok = "#00aa00"\nbatching = "#abc"\nlabel = "#999999"\n')
    found = chosen("dusk", tmp_path)
    assert (found.name, found.dark, found.success) == ("dusk", True, "#00aa00")
    assert found.background == theme.NIGHT.background
    assert found.variables["hue-batching"] == "#abc"
    assert found.variables["ink-label"] == "#999999"
    assert found.variables["hue-engines"] == theme.NIGHT.variables["hue-engines"]
    assert found.variables["edge-batching"] != theme.NIGHT.variables["edge-batching"]
    assert theme.NIGHT.success == "#63c174"


@pytest.mark.parametrize(
    ("text", "dark"),
    [
        ('background = "#fffdf5"\nforeground = "#332211"\n', False),
        ('background = "#14101c"\nforeground = "#e6e0ee"\n', True),
        ('base = "console-day"\nbackground = "#f0e8d8"\n', False),
        ('base = "nord"\nwarn = "#ffcc00"\n', True),
        ('base = "console-16"\nengines = "#00ff00"\n', True),
    ],
)
def test_whatever_ground_is_chosen_text_can_be_read_on_it(
    tmp_path: Path, text: str, dark: bool
) -> None:
    written(tmp_path, text)
    stage = Stage(theme="dusk", themes=tmp_path)
    assert stage.app.current_theme.dark is dark
    for ink in TEXTS:
        style = stage.app.inks[ink]
        assert style.color is not None
        assert style.bgcolor is not None
        ratio = theme.contrast(
            Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
        )
        assert ratio >= 4.5, (ink, ratio)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('ok = "#0f0"\nbackgroud = "#000"\n', ':2: no key "backgroud"; did you mean "background"?'),
        ('\nwarn = "amber"\n', ':2: warn must be a colour such as "#6cb6ff"'),
        ("ok = 3\n", ":1: ok must be a colour"),
        ('base = "nrod"\n', ':1: no theme "nrod"; did you mean "nord"?'),
        ('ok = "#0f0\n', ":1: Illegal character"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        chosen("dusk", tmp_path)
    assert str(caught.value).startswith(f"{path}{told}")
    assert "\n" not in str(caught.value)


def test_the_name_of_a_theme_that_ships_is_taken(tmp_path: Path) -> None:
    written(tmp_path, 'ok = "#0f0"\n', "nord")
    with pytest.raises(InvalidInput, match='"nord" is the name of a theme that ships'):
        chosen("nord", tmp_path)


def test_an_unknown_name_is_told_with_the_users_own_nearest(tmp_path: Path) -> None:
    written(tmp_path, "")
    with pytest.raises(InvalidInput, match='no theme "dask"; did you mean "dusk"'):
        chosen("dask", tmp_path)
    with pytest.raises(InvalidInput, match="no theme"):
        chosen("../dusk", tmp_path / "deeper")
    assert own_names(tmp_path) == ["dusk"]
    assert own_names(tmp_path / "no") == []


def test_themes_lie_beside_the_fleet_file_of_the_user() -> None:
    assert themes_dir({"XDG_CONFIG_HOME": "config"}) == Path("config/vllm-console/themes")
    assert themes_dir({}) == Path.home() / ".config/vllm-console/themes"


async def test_the_palette_changes_the_theme_and_reads_an_edited_file_anew(tmp_path: Path) -> None:
    written(tmp_path, 'background = "#200020"\n')
    stage = Stage(themes=tmp_path)
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)

        def ground() -> str:
            strip = stage.app.screen._compositor.render_strips()[5]
            style = next(segment.style for segment in strip if segment.text.strip())
            assert style is not None
            assert style.bgcolor is not None
            return Color.from_rich_color(style.bgcolor).hex

        async def choose(name: str) -> str:
            await pilot.press("colon", *f"theme {name}", "enter")
            await stage.settled(pilot)
            return stage.text()

        assert ground() == theme.NIGHT.background.upper()  # type: ignore[union-attr]
        assert "● theme dusk" in await choose("dusk")
        assert ground() == "#200020"
        written(tmp_path, 'background = "#002000"\n')
        await choose("dusk")
        assert ground() == "#002000"
        path = written(tmp_path, 'background = "green"\n')
        assert f"✖ {path}:1: background must be a colour" in await choose("dusk")
        assert ground() == "#002000"
        await choose("console-day")
        assert stage.app.theme == "console-day"
        assert ground() == theme.DAY.background.upper()  # type: ignore[union-attr]


async def test_inks_are_a_themes_own_from_the_moment_that_it_is_chosen(tmp_path: Path) -> None:
    stage = Stage(themes=tmp_path)
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        stage.app.choose_theme("nord")
        style = stage.app.inks[""]
        assert style.bgcolor is not None
        assert Color.from_rich_color(style.bgcolor).hex == "#2E3440"


async def test_the_palette_offers_the_users_own_and_ours_before_all_others(tmp_path: Path) -> None:
    written(tmp_path, "")
    stage = Stage(themes=tmp_path)
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        provider = ThemeCommands(stage.app.screen)
        names = [str(hit.text) async for hit in provider.discover()]
        ours = [f"theme {each.name}" for each in theme.OURS]
        assert names == ["theme dusk", *ours]
        found = [str(hit.text) async for hit in provider.search("gruvbox")]
        assert found == ["theme gruvbox"]
