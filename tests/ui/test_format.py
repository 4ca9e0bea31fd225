"""Numbers as the screen writes them."""

from __future__ import annotations

from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.ui import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.004, "0.00"), (1, "1"), (2.536, "2.54"), (9.994, "9.99"), (9.996, "10.0"),
        (12.34, "12.3"), (99.96, "100"), (127, "127"), (999, "999"), (127.4, "127"),
    ],
)  # fmt: skip
def test_three_significant_figures(value: float, text: str) -> None:
    assert fmt.sig3(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (999, "999"), (999.7, "1.00k"), (1540, "1.54k"), (32_768, "32.8k"),
        (412_160, "412k"), (2_100_000, "2.10M"), (3.2e9, "3.20G"),
    ],
)  # fmt: skip
def test_si_letters_begin_where_three_figures_end(value: float | None, text: str) -> None:
    assert fmt.si(value) == text


@given(st.floats(min_value=0, max_value=9.99e11, allow_nan=False))
def test_si_always_fits_five_cells(value: float) -> None:
    assert 1 <= len(fmt.si(value)) <= 5


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (1162, "1,162"), (50_982, "50,982"), (123_456, "123k")]
)
def test_counts_have_commas_while_five_digits_fit(value: float | None, text: str) -> None:
    assert fmt.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ("–", "")), (0.0114, ("11.4", "ms")), (0.9996, ("1.00", "s")), (2.44, ("2.44", "s")),
        (100, ("1.67", "min")), (7200, ("2", "h")), (273_000, ("3.16", "d")),
    ],
)  # fmt: skip
def test_durations_take_the_unit_that_reads_best(
    seconds: float | None, text: tuple[str, str]
) -> None:
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (12.3, "12 s"), (119, "119 s"), (180, "3 min"), (7300, "2 h")],
)
def test_ages_count_in_whole_units(seconds: float, text: str) -> None:
    assert fmt.age(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "–"), (0, "0.0"), (2**29, "0.50"), (61 * 2**30, "61.0"), (1128 * 2**30, "1,128")],
)
def test_gib_keep_one_decimal_below_a_hundred(size: float | None, text: str) -> None:
    assert fmt.gib(size) == text


def test_small_token_rates_keep_their_figures_and_large_ones_are_whole() -> None:
    assert [fmt.tokens(v) for v in (None, 0, 0.42, 12.6, 833.4, 1995)] == [
        "–", "0", "0.42", "13", "833", "1,995",
    ]  # fmt: skip
    assert fmt.rate(4.2) == "4.20"
    assert fmt.rate(1234.0) == "1,234"


def test_a_time_that_is_none_is_a_dash() -> None:
    assert fmt.clock("2026-11-20T12:04:31+00:00", UTC) == "12:04:31"
    assert fmt.clock("soon", UTC) == "–"
    assert fmt.percent(None) == "–"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ("–", "")), (0, ("0.0", "GiB")), (65536, ("0.1", "MiB")), (1363148, ("1.3", "MiB")),
        (254 * 2**20, ("254", "MiB")), (2**30, ("1.0", "GiB")), (131 * 2**30, ("131", "GiB")),
    ],
)  # fmt: skip
def test_sizes_take_the_unit_that_reads_best(count: float | None, text: tuple[str, str]) -> None:
    assert fmt.size(count) == text


def test_a_size_keeps_the_unit_of_its_whole() -> None:
    assert fmt.size(0, like=4 * 2**20) == ("0.0", "MiB")
    assert fmt.size(2**20, like=40 * 2**30) == ("0.00", "GiB")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0742, "0.074"),
        (0.9996, "1.00"),
        (412.4, "412"),
        (999.7, "1,000"),
        (1994, "1,994"),
        (12_345, "12.3k"),
    ],
)
def test_large_figures_have_a_comma_and_five_cells(value: float, text: str) -> None:
    assert fmt.figure(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ("–", "")), (9.97, ("9", "s")), (73.4, ("73", "s")), (119.9, ("119", "s")),
        (4000, ("66", "min")), (7200, ("2.0", "h")), (273_000, ("3.1", "d")),
    ],
)  # fmt: skip
def test_an_uptime_moves_once_a_second_at_most(
    seconds: float | None, text: tuple[str, str]
) -> None:
    assert fmt.uptime(seconds) == text
