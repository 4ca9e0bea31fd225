"""Graphs: what a sample, a gap and a limit look like."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vllm_console.ui import graphs
from vllm_console.ui.rows import length, text_of

SAMPLES = st.lists(st.one_of(st.none(), st.floats(min_value=0, max_value=1e9)), max_size=80)


def test_an_area_grows_with_the_value_and_leaves_gaps_empty() -> None:
    rows = graphs.area([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, None, None, 8, 8], 7, 2, 8.0, "engines")
    assert text_of(rows) == "  ⢀⣴⣿ ⣿\n⢀⣴⣿⣿⣿ ⣿"


def test_anything_above_zero_shows_a_dot_and_zero_shows_none() -> None:
    assert text_of(graphs.area([0.0, 1e-9], 1, 1, 100.0, "engines")) == "⢀"
    assert text_of(graphs.area([0.0, 0.0], 1, 1, 100.0, "engines")) == ""
    assert text_of(graphs.area([None, None], 1, 1, 100.0, "engines")) == ""


def test_the_newest_sample_is_at_the_right() -> None:
    assert text_of(graphs.area([4.0], 4, 1, 4.0, "engines")) == "   ⢸"


def test_a_mirrored_area_hangs_from_the_top() -> None:
    rows = graphs.area([1.0, 1.0], 1, 2, 8.0, "engines", down=True)
    assert [row[0][0] for row in rows] == ["⠉", " "]


def test_what_is_over_the_line_is_amber_and_the_line_shows_where_nothing_is() -> None:
    rows = graphs.area([2.0, 2.0, 4.0, 4.0], 3, 4, 4.0, "engines", line=2.0)
    assert [[ink for _, ink in row] for row in rows][0:2] == [["warn"], ["warn"]]
    assert rows[2] == [("╌", "dim"), ("⣿", "engines4"), ("⣿", "warn")]
    assert rows[3] == [(" ⣿⣿", "engines2")]


@given(SAMPLES, st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_every_row_of_an_area_has_exactly_its_width(
    samples: list[float | None], width: int, height: int, down: bool
) -> None:
    top = graphs.nice(max((s for s in samples if s), default=0))
    rows = graphs.area(samples, width, height, top, "engines", down=down, line=top / 2)
    assert [length(row) for row in rows] == [width] * height


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_a_scale_holds_its_value_and_is_at_most_twice_as_large(value: float) -> None:
    assert value <= graphs.nice(value) * (1 + 1e-9)
    assert graphs.nice(value) <= 2 * value * (1 + 1e-9)


def test_a_scale_moves_in_steps() -> None:
    assert [graphs.nice(v) for v in (0, 1.1, 1.6, 2.2, 810, 990)] == [1, 1.5, 2, 2.5, 1000, 1000]


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(30, 80), st.integers(1, 8))
def test_every_row_of_a_histogram_fits_and_a_count_shows(
    counts: list[int], width: int, height: int
) -> None:
    rows = graphs.histogram(counts, width, height, "batching")
    assert len(rows) == height
    assert all(length(row) <= width for row in rows)
    bottom = "".join(text for text, _ in rows[-1])
    for count, (start, end) in zip(counts, graphs.column_bounds(len(counts), width), strict=True):
        if any(counts):
            assert (bottom[start:end].strip() != "") == (count > 0)


def test_columns_of_a_histogram_are_equally_wide() -> None:
    for columns, width, size, gap in (
        (14, 35, 2, 0),
        (12, 35, 2, 1),
        (8, 35, 3, 1),
        (30, 35, 1, 0),
    ):
        bounds = graphs.column_bounds(columns, width)
        assert {end - start for start, end in bounds} == {size}
        assert {b[0] - a[1] for a, b in pairwise(bounds)} == {gap}
        assert bounds[0][0] >= 0
        assert bounds[-1][1] <= width


def test_a_bar_of_a_gpu_has_four_heights() -> None:
    assert "".join(graphs.bar(v) for v in (None, 0, 0.3, 0.5, 0.8, 1)) == "╌⣀⣀⣤⣶⣿"
