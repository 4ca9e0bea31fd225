"""What goes to the terminal: less than Textual writes, and the same cells."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.driver import Driver
from textual.message import Message

from tests.ui.playing import Stage
from tests.ui.screen import Screen
from vllm_console.ui.terse import (
    PLAIN,
    RESIZING_S,
    SYNC_BEGINS,
    SYNC_ENDS,
    Shown,
    change,
    terse,
)

COLUMNS, ROWS = 24, 4
INKS = ("0", "1", "7", "31", "1;38;2;1;2;3;48;2;9;9;9", "38;2;1;2;3;48;2;9;9;9", "2;4;97;101",
        "38;5;7", "48;2;9;9;9", "1;2;3", "9;39;49")  # fmt: skip
SEEN_ON_SPACES = {"4", "7", "9"}

texts = st.text(st.sampled_from("ab 12⣿━字é\u0301"), min_size=1, max_size=9).filter(
    lambda text: not text.startswith("\u0301")
)
pieces = st.tuples(st.sampled_from(INKS), texts)


@st.composite
def pictures(draw: Any) -> str:
    """An update as Textual writes it: lines of styled text, each after its position."""
    out = []
    for y in sorted(draw(st.sets(st.integers(1, ROWS), min_size=1))):
        x = draw(st.integers(1, COLUMNS - 2))
        out.append(f"\x1b[{y};{x}H")
        for codes, text in draw(st.lists(pieces, min_size=1, max_size=4)):
            if x + cell_len(text) > COLUMNS + 1:
                break
            x += cell_len(text)
            out.append(f"\x1b[{codes}m{text}\x1b[0m")
        out.append("\n")
    cursor: str = draw(st.sampled_from(["", "\x1b[1;1H", "\x1b[2;3H"]))
    return "".join(out[:-1]) + cursor


def seen(screen: Screen) -> list[list[tuple[str, object]]]:
    """What an eye sees of each cell: the colour of a space is not there."""
    rows = []
    for cells, inks in zip(screen.cells, screen.inks, strict=True):
        row: list[tuple[str, object]] = []
        for text, (marks, front, back) in zip(cells, inks, strict=True):
            bare = text == " " and not SEEN_ON_SPACES & set(marks)
            plain_front, plain_back = front.replace("39", ""), back.replace("49", "")
            row.append((text, plain_back if bare else (marks, plain_front, plain_back)))
        rows.append(row)
    return rows


@settings(max_examples=400, deadline=None)
@given(st.lists(pictures(), min_size=1, max_size=6))
def test_the_cells_are_those_of_all_that_textual_wrote(updates: list[str]) -> None:
    shown, whole, lean = Shown(), Screen(COLUMNS, ROWS), Screen(COLUMNS, ROWS)
    for update in updates:
        whole.feed(update)
        lean.feed(shown.lean(update))
        assert seen(lean) == seen(whole)
        assert lean.ink == whole.ink
        if update.endswith("H"):
            assert (lean.y, lean.x) == (whole.y, whole.x)


def test_the_same_picture_again_is_nothing() -> None:
    shown = Shown()
    update = "\x1b[1;1H\x1b[31mone\x1b[0m\n\x1b[2;1H\x1b[1;32m字\x1b[0m\x1b[1;1H"
    assert shown.lean(update)
    assert shown.lean(update) == ""


def test_a_digit_that_moves_is_a_digit() -> None:
    shown = Shown()
    shown.lean("\x1b[3;1H\x1b[31mrunning \x1b[0m\x1b[1;34m128\x1b[0m\x1b[1;1H")
    update = "\x1b[3;1H\x1b[31mrunning \x1b[0m\x1b[1;34m129\x1b[0m\x1b[1;1H"
    assert shown.lean(update) == "\x1b[3;11H\x1b[1;34m9\x1b[0m\x1b[1;1H"


@pytest.mark.parametrize(
    "foreign",
    [
        "\x1b[?1049h",
        "\x1b[2J",
        "no position",
        "\x1b[1;1H\x1b]8;;https://example.org\x1b\\text\x1b]8;;\x1b\\",
        "\x1b[1;1H\x1b[31m\x1b[1mtwo styles on each other\x1b[0m",
        "\x1b[1;1H\x1b[31ma bell\x07\x1b[0m",
    ],
)
def test_what_is_not_a_picture_goes_through_and_nothing_is_known_after_it(foreign: str) -> None:
    shown = Shown()
    update = "\x1b[2;1H\x1b[31mone\x1b[0m\x1b[1;1H"
    first = shown.lean(update)
    assert shown.lean(foreign) == foreign
    assert shown.lean(update) == first


def test_text_that_is_not_measured_takes_a_cell_a_character() -> None:
    plain = [c for c in map(chr, range(0x3000)) if PLAIN.fullmatch(c)]
    assert len(plain) > 700
    assert [c for c in plain if cell_len(c) != 1 or not c.isprintable()] == []


@given(st.sampled_from(INKS[1:]), st.sampled_from(INKS[1:]))
def test_a_change_of_ink_is_no_longer_than_beginning_anew(before: str, after: str) -> None:
    codes, ink = change(before, after)
    screen = Screen(3, 1)
    screen.feed(f"\x1b[{before}m{codes}x")
    anew = Screen(3, 1)
    anew.feed(f"\x1b[{after}mx")
    assert seen(screen) == seen(anew)
    assert len(codes) <= len(f"\x1b[0;{after}m")
    assert change(ink, after)[0] == ""


class FakeDriver(Driver):
    """Remembers what it was asked to write."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.messages: list[Message] = []

    def write(self, data: str) -> None:
        self.written.append(data)

    def process_message(self, message: Message) -> None:
        self.messages.append(message)

    def start_application_mode(self) -> None:
        """Nothing to start."""

    def disable_input(self) -> None:
        """No input."""

    def stop_application_mode(self) -> None:
        """Nothing to stop."""


def test_a_picture_without_news_is_not_even_begun() -> None:
    made: Any = terse(FakeDriver, Shown())
    driver = made()
    for _ in range(2):
        for data in (SYNC_BEGINS, "\x1b[1;1H\x1b[31mone\x1b[0m\x1b[1;1H", SYNC_ENDS):
            driver.write(data)
    assert driver.written == [f"{SYNC_BEGINS}\x1b[1;1H\x1b[31mone\x1b[0m\x1b[1;1H", SYNC_ENDS]


def test_while_the_terminal_takes_another_size_nothing_is_left_out() -> None:
    now = 10.0
    shown = Shown(lambda: now)
    update = "\x1b[1;1H\x1b[31mone\x1b[0m\x1b[1;1H"
    assert shown.lean(update) == update
    assert shown.lean(update) == ""
    shown.resized()
    assert shown.lean(update) == update
    assert shown.lean(update) == update
    now += RESIZING_S
    assert shown.lean(update) == ""


async def test_a_new_size_is_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    async with stage.app.run_test(size=(160, 48)) as pilot:
        await stage.shown(pilot)
        sizes: list[str] = []
        monkeypatch.setattr(stage.app._shown, "resized", lambda: sizes.append("resized"))
        await pilot.resize_terminal(120, 44)
        await stage.settled(pilot)
        assert len(sizes) >= 2, "when the size came, and when the screen took it"


async def test_a_key_has_everything_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    async with stage.app.run_test(size=(160, 48)) as pilot:
        await stage.shown(pilot)
        asked: list[str] = []
        monkeypatch.setattr(stage.app._shown, "forget", lambda: asked.append("forget"))
        monkeypatch.setattr(stage.app.screen, "refresh", lambda: asked.append("refresh"))
        await pilot.press("ctrl+l")
        assert asked[:2] == ["forget", "refresh"]


async def test_every_picture_of_the_console_is_understood() -> None:
    stage = Stage()
    async with stage.app.run_test(size=(160, 48)) as pilot:
        await stage.shown(pilot)
        shown, whole, lean = Shown(), Screen(160, 48), Screen(160, 48)
        for key in ("", "j", "z", "z", "question_mark", "escape", "E", "escape", "enter"):
            if key:
                await pilot.press(key)
                await pilot.pause()
            screen = stage.app.screen
            screen.refresh()
            made: Any = screen._compositor.render_update(True, stage.app._background_screens)
            update = made.render_segments(stage.app.console) + "\x1b[1;1H"
            less = shown.lean(update)
            assert less != update
            whole.feed(update)
            lean.feed(less)
            assert seen(lean) == seen(whole)
            assert len(re.findall("\x1b", less)) < len(re.findall("\x1b", update)) * 0.7
