"""The user's own panel files: a fifth panel, and what is edited is shown within a second."""

from __future__ import annotations

from pathlib import Path
from threading import Event as Flag

import pytest
from textual.pilot import Pilot

from tests.ui.playing import Stage
from vllm_console.ui.panel import Panel
from vllm_console.ui.panel_files import PanelFiles
from vllm_console.ui.panels import MOST, NAMES, PanelSpec, load_panels

MINE = 'title = "mine"\nhue = "scaling"\n[[blocks]]\nblock = "memory"\nheight = 4\n'
ROW, WIDE, TABS = (160, 48), (240, 60), (80, 24)


def written(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def shown(stage: Stage) -> list[str]:
    return [panel.spec.name for panel in stage.app.screen.query(Panel) if panel.display]


class Turned:
    """A `PanelFiles` whose thread never looks by itself: a test makes it look."""

    def __init__(self, folder: Path) -> None:
        self.files = PanelFiles(folder, wait=lambda _: self.ended.wait(60.0))
        self.ended = Flag()
        self.stage = Stage(panels=folder, panel_files=self.files)

    async def look(self, pilot: Pilot[None]) -> str:
        self.files.look()
        await pilot.pause()
        await pilot.pause()
        self.ended.set()
        return self.stage.text()


def test_other_files_of_the_folder_are_panels_after_the_four_by_name(tmp_path: Path) -> None:
    for name in ("zebra", "apple", "engines"):
        written(tmp_path, MINE, name)
    specs = load_panels(tmp_path)
    assert [spec.name for spec in specs] == [*NAMES, "apple", "zebra"]
    assert (specs[4].title, specs[4].hue) == ("mine", "scaling")


def test_there_are_as_many_panels_as_keys(tmp_path: Path) -> None:
    for number in range(9):
        written(tmp_path, MINE, f"own-{number}")
    assert len(load_panels(tmp_path)) == MOST


def test_an_own_panel_with_a_mistake_has_a_hue_too(tmp_path: Path) -> None:
    path = written(tmp_path, "[[blocks\n")
    spec = load_panels(tmp_path)[4]
    assert spec.hue in NAMES
    assert (spec.problem or "").startswith(f"{path}:1: ")


async def test_key_5_shows_the_fifth_panel_alone_where_the_row_has_no_room(tmp_path: Path) -> None:
    written(tmp_path, MINE)
    stage = Stage(panels=tmp_path)
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        assert shown(stage) == list(NAMES)
        await pilot.press("5")
        await pilot.pause()
        assert shown(stage) == ["mine"]
        assert "⁵mine" in stage.text()
        await pilot.press("escape")
        await pilot.pause()
        assert shown(stage) == list(NAMES)
        assert stage.app.focused is stage.app.screen.query_one("#engines")


async def test_a_wide_terminal_has_room_for_five(tmp_path: Path) -> None:
    written(tmp_path, MINE)
    stage = Stage(panels=tmp_path)
    async with stage.app.run_test(size=WIDE) as pilot:
        await stage.shown(pilot)
        assert shown(stage) == [*NAMES, "mine"]
        await pilot.press("5")
        assert shown(stage) == [*NAMES, "mine"]
        focused = stage.app.focused
        assert isinstance(focused, Panel)
        assert focused.spec.name == "mine"


async def test_tabs_have_the_fifth_title(tmp_path: Path) -> None:
    written(tmp_path, MINE)
    stage = Stage(panels=tmp_path)
    async with stage.app.run_test(size=TABS) as pilot:
        await stage.shown(pilot)
        assert "⁴scaling  ⁵mine" in stage.text()
        await pilot.press("5")
        await pilot.pause()
        assert shown(stage) == ["mine"]


@pytest.mark.parametrize("key", ["5", "9"])
async def test_a_number_without_a_panel_does_nothing(key: str) -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        before = stage.text()
        await pilot.press(key)
        assert stage.text() == before


async def test_an_edited_panel_is_shown_anew_and_a_mistake_stands_in_its_place_alone(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, MINE, "batching")
    turned = Turned(tmp_path)
    async with turned.stage.app.run_test(size=ROW) as pilot:
        await turned.stage.shown(pilot)
        assert "³mine" in turned.stage.text()
        path.write_text(MINE.replace("mine", "other").replace("memory", "memroy"))
        text = await turned.look(pilot)
        assert "³other" not in text
        assert "this panel's file has a mistake" in text
        assert '"memory"?' in text
        assert "²performance" in text
        path.write_text(MINE.replace("mine", "mended"))
        text = await turned.look(pilot)
        assert "³mended" in text
        assert "mistake" not in text


async def test_own_panels_come_and_go_while_the_console_runs(tmp_path: Path) -> None:
    turned = Turned(tmp_path)
    stage = turned.stage
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        path = written(tmp_path, MINE)
        await turned.look(pilot)
        await pilot.press("5")
        await pilot.pause()
        assert shown(stage) == ["mine"]
        path.unlink()
        text = await turned.look(pilot)
        assert shown(stage) == list(NAMES)
        assert "mine" not in text
        await pilot.press("5")
        assert shown(stage) == list(NAMES)


async def test_a_folder_that_goes_is_one_line_and_the_panels_stay(tmp_path: Path) -> None:
    folder = tmp_path / "panels"
    folder.mkdir()
    path = written(folder, MINE, "batching")
    turned = Turned(folder)
    async with turned.stage.app.run_test(size=ROW) as pilot:
        await turned.stage.shown(pilot)
        path.unlink()
        folder.rmdir()
        text = await turned.look(pilot)
        assert "is not a folder" in text
        assert "³mine" in text


def test_only_a_change_is_told(tmp_path: Path) -> None:
    written(tmp_path, MINE)
    told: list[tuple[PanelSpec, ...] | str] = []
    ended = Flag()
    files = PanelFiles(tmp_path, wait=lambda _: ended.wait(60.0))
    files.start(told.append)
    files.look()
    assert told == []
    written(tmp_path, MINE + "# more\n")
    files.look()
    files.look()
    assert len(told) == 1
    files.close()
    ended.set()


def test_the_watcher_looks_by_itself_until_it_is_closed(tmp_path: Path) -> None:
    heard = Flag()
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 1:
            written(tmp_path, MINE)
        return len(waits) > 1

    files = PanelFiles(tmp_path, wait)
    files.start(lambda news: heard.set())
    assert heard.wait(10.0)
    assert waits[0] == 1.0
