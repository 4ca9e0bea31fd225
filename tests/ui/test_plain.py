"""Terminals with few characters, few colours or few cells: what is drawn still says all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.color import ColorSystem
from textual.pilot import Pilot

import vllm_console.ui
from tests.ui.playing import Stage
from tests.ui.scripted import LabFleet
from vllm_console.ui.plain import KNOWN, few_characters, plain
from vllm_console.ui.rows import SHADES
from vllm_console.ui.theme import PANELS, usual

SOURCES = sorted(Path(vllm_console.ui.__file__).parent.rglob("*.py"))


def drawn(source: Path) -> set[str]:
    return set(re.findall(r"[^\x00-\x7f]", source.read_text(encoding="utf-8")))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_sign_of_the_screens_source_has_a_likeness(source: Path) -> None:
    unknown = {sign for sign in drawn(source) if ord(sign) not in KNOWN}
    assert unknown == set()


def test_a_likeness_is_one_cell_of_ascii_as_is_what_it_stands_for() -> None:
    for number, likeness in KNOWN.items():
        assert likeness.isascii()
        assert cell_len(likeness) == 1 == cell_len(chr(number)), chr(number)


def test_wide_characters_keep_their_width() -> None:
    assert plain("模型 ● ready") == "???? * ready"
    assert plain("ready") == "ready"


def test_a_graph_keeps_its_heights() -> None:
    assert plain("⠀⣀⣤⣶⣿") == " ,;l#"


@pytest.mark.parametrize(
    ("term", "few"),
    [("linux", True), ("vt100", True), ("dumb", True), ("xterm-256color", False),
     ("tmux-256color", False), ("xterm", False), ("", False)],
)  # fmt: skip
def test_terminals_without_glyphs_are_known_by_their_name(term: str, few: bool) -> None:
    assert few_characters({"TERM": term}) is few


async def everything(stage: Stage, pilot: Pilot[None], *keys: str) -> str:
    await stage.shown(pilot)
    for key in keys:
        await pilot.press(key)
    await stage.settled(pilot)
    return stage.text()


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (120, 44), (160, 48), (240, 60)])
async def test_with_ascii_no_other_character_reaches_the_terminal(size: tuple[int, int]) -> None:
    stage = Stage(LabFleet(fourth="failed"), ascii_only=True)
    async with stage.app.run_test(size=size) as pilot:
        text = await everything(stage, pilot)
        frames = stage.app.screen._compositor.render_strips()
        assert text.isascii()
        assert "llama-70b" in text
        assert [strip.cell_length for strip in frames] == [size[0]] * size[1]


@pytest.mark.parametrize("keys", [("question_mark",), ("u",), ("enter",), ("z",), ("t",)])
async def test_no_screen_forgets_that_there_is_only_ascii(keys: tuple[str, ...]) -> None:
    stage = Stage(LabFleet(fourth="failed"), ascii_only=True)
    async with stage.app.run_test(size=(120, 44)) as pilot:
        assert (await everything(stage, pilot, *keys)).isascii()


@pytest.mark.parametrize(
    "size", [(60, 16), (80, 24), (99, 35), (100, 36), (149, 53), (150, 54), (300, 80)]
)
@pytest.mark.parametrize("theme", ["console-night", "console-day", "console-16", "dracula"])
async def test_every_size_and_theme_shows_the_fleet(size: tuple[int, int], theme: str) -> None:
    stage = Stage(LabFleet(fourth="failed"), theme=theme)
    async with stage.app.run_test(size=size) as pilot:
        text = await everything(stage, pilot)
    assert "llama-70b" in text
    assert "engines" in text
    assert "q quit" in text


async def test_in_sixteen_colours_the_selected_row_and_the_states_stand_out() -> None:
    stage = Stage(LabFleet(fourth="failed"), theme="console-16")
    async with stage.app.run_test(size=(160, 48)) as pilot:
        await stage.shown(pilot)
        inks = stage.app.inks

        def number(ink: str, ground: bool = False) -> int | None:
            colour = inks[ink].bgcolor if ground else inks[ink].color
            assert colour is not None
            return colour.downgrade(ColorSystem.STANDARD).number

        paper = number("text", ground=True)
        assert number("text@", ground=True) != paper
        states = [number(ink) for ink in ("ok", "warn", "crit")]
        assert len({*states, paper, number("text")}) == 5
        for ink in ("value", "label", "dim", "engines", "performance", "batching", "scaling"):
            assert number(ink) != paper
        assert number("track") != paper
        assert all(number(f"{hue}{shade}") != paper for hue in PANELS for shade in range(SHADES))


@pytest.mark.parametrize(
    ("environ", "theme"),
    [
        ({"TERM": "linux"}, "console-16"),
        ({"TERM": "xterm"}, "console-16"),
        ({"TERM": "xterm-256color"}, "console-night"),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "console-night"),
    ],
)
def test_the_usual_theme_is_one_that_the_terminal_has_the_colours_for(
    environ: dict[str, str], theme: str
) -> None:
    assert usual(environ) == theme
