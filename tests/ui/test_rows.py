"""Rows: cutting, filling, meters and stacked bars keep their width whatever they hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllm_console.ui import rows

WIDTHS = st.integers(min_value=1, max_value=60)
TEXTS = st.text(alphabet="ab ü漢字é-", max_size=40)


@given(TEXTS, WIDTHS)
def test_cut_and_filled_text_has_exactly_its_width(text: str, width: int) -> None:
    assert rows.length([(rows.left(text, width), "")]) == width
    assert rows.length([(rows.right(text, width), "")]) == width
    assert rows.length([(rows.cut_left(text, width), "")]) <= width


@given(TEXTS, TEXTS, WIDTHS)
def test_a_spread_row_has_exactly_its_width(one: str, two: str, width: int) -> None:
    row = rows.spread([(one, "")], [(two, "")], width)
    assert rows.length(row) == width


def test_the_left_part_is_cut_where_the_two_meet() -> None:
    row = rows.spread([("mistral-24b-instruct", "")], [("ready", "")], 16)
    assert rows.text_of([row]) == "mistral-2… ready"


@given(st.one_of(st.none(), st.floats(min_value=-1, max_value=3)), WIDTHS)
def test_a_meter_has_exactly_its_width(ratio: float | None, width: int) -> None:
    assert rows.length(rows.meter(ratio, width, "engines")) == width


def test_a_meter_shows_the_smallest_use_and_marks_an_unknown_one() -> None:
    assert rows.meter(0.001, 8, "x")[0] == ("╸", "x")
    assert rows.meter(0.0, 8, "x")[0] == ("", "x")
    assert rows.meter(None, 8, "x") == [("╌╌╌╌╌╌╌╌", "track")]


@given(st.lists(st.floats(min_value=0, max_value=1e12), max_size=6), WIDTHS)
def test_a_stack_has_exactly_its_width(sizes: list[float], width: int) -> None:
    assert rows.length(rows.stack([(size, "engines") for size in sizes], width)) == width


def test_a_part_gets_the_cells_that_it_fills() -> None:
    def cells(*sizes: float) -> list[int]:
        return [len(text) for text, _ in rows.stack([(size, "x") for size in sizes], 20)]

    assert cells(1e12, 1.0) == [20]
    assert cells(18.0, 2.0) == [18, 2]
    assert cells(19.4, 0.6) == [19, 1]


def test_an_empty_state_stands_in_the_middle() -> None:
    assert rows.text_of(rows.quiet(20, 5, "no models yet", "add one")) == (
        "\n   no models yet\n      add one\n\n"
    )


def test_a_value_is_bad_from_its_limits_on() -> None:
    inks = [rows.level(v, 0.85, 0.95) for v in (None, 0.5, 0.85, 0.95)]
    assert inks == ["dim", "value", "warn!", "crit!"]
    assert rows.level(99.0, None, None) == "value"


def test_wrapped_text_ends_with_what_is_cut() -> None:
    lines = rows.wrap("one two three four five six seven", 10, "label", 2)
    assert rows.text_of(lines) == "one two\nthree fou…"
