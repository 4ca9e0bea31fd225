"""The grid of bounds, and histograms that go on with wider ones."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.telemetry.grid import (
    FLOOR,
    GRID,
    cumulative,
    is_fine,
    joined,
    middle,
    widened,
)

SPARSE = st.dictionaries(st.integers(0, len(GRID)), st.integers(1, 50), max_size=12).map(
    lambda found: sorted(found.items())
)


def test_the_middle_of_a_bucket_is_within_one_percent_of_all_in_it() -> None:
    for below, above in pairwise(GRID):
        point = math.sqrt(below * above)
        assert point / below - 1 < 0.01
        assert 1 - point / above < 0.01


def test_the_grid_reaches_from_ten_microseconds_to_more_than_three_hours() -> None:
    assert GRID[0] == FLOOR == 1e-5
    assert GRID[-1] > 3 * 3600


def test_bounds_cover_what_was_counted_and_little_more() -> None:
    bounds, counts = cumulative([(500, 3), (560, 2)])
    assert len(bounds) < 130
    assert bounds[1] < GRID[499] < GRID[560] <= bounds[-1]
    assert counts[0] == 0
    assert counts[-1] == 5


def test_what_took_no_time_needs_one_bound() -> None:
    assert cumulative([(0, 7)]) == ((FLOOR,), (7.0, 7.0))
    assert cumulative([]) == ((FLOOR,), (0.0, 0.0))


@given(SPARSE)
def test_every_count_is_found_at_its_bound(sparse: list[tuple[int, int]]) -> None:
    bounds, counts = cumulative(sparse)
    assert is_fine(bounds)
    assert len(counts) == len(bounds) + 1
    for bound, count in zip(bounds, counts, strict=False):
        assert count == sum(
            n for bucket, n in sparse if bucket < len(GRID) and GRID[bucket] <= bound
        )
    assert counts[-1] == sum(n for _, n in sparse)


@given(SPARSE, SPARSE)
def test_wider_bounds_hold_the_same_counts(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    bounds, counts = cumulative(one)
    more, _ = cumulative(other)
    both = joined(bounds, more)
    assert both is not None
    assert set(both) >= set(bounds) | set(more)
    wide = widened(counts, bounds, both)
    beyond = dict(one).get(len(GRID), 0)
    if beyond and both[-1] > bounds[-1]:
        assert wide is None
        return
    assert wide is not None
    for bound, count in zip(both, wide, strict=False):
        assert count == sum(n for bucket, n in one if bucket < len(GRID) and GRID[bucket] <= bound)
    assert wide[-1] == counts[-1]


@pytest.mark.parametrize(
    "bounds", [(), (0.1, 0.5, 1.0), (FLOOR, 0.5), (FLOOR, *GRID[40:60], 1.0), GRID[3:80]]
)
def test_other_bounds_are_told_from_those_of_the_grid(bounds: tuple[float, ...]) -> None:
    assert not is_fine(bounds)
    assert joined(bounds, GRID[:30]) is None
    assert joined((FLOOR,), bounds) is None
    assert widened([1.0] * (len(bounds) + 1), bounds, GRID) is None


def test_nothing_is_guessed_of_a_bucket_that_would_be_cut() -> None:
    bounds, _ = cumulative([(500, 1)])
    counts = [1.0, 2.0] + [2.0] * (len(bounds) - 1)
    assert widened(counts, bounds, GRID) is None


def test_bounds_do_not_get_narrower() -> None:
    assert widened([0.0] * (len(GRID) + 1), GRID, GRID[:30]) is None


def test_a_percentile_moves_to_the_middle_of_its_bucket_on_the_grid_alone() -> None:
    bounds, _ = cumulative([(500, 1)])
    moved = middle(GRID[500] * 0.999, bounds)
    assert moved == pytest.approx(math.sqrt(GRID[499] * GRID[500]))
    assert middle(0.3, (0.1, 0.5)) == 0.3
    assert middle(None, bounds) is None
    assert middle(5e-6, bounds) == 5e-6
    assert middle(bounds[-1], bounds) == bounds[-1]
