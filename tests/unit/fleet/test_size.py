"""Sizes in fleet.toml: how they are read, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_console.fleet.load import load_fleet
from vllm_console.fleet.problems import FleetError
from vllm_console.fleet.size import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("500MB", 500_000_000), ("2 GiB", 2 << 30), ("1.5kb", 1500)],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1MB", "2 XB", "1e9", "2GB2"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write one like"):
        parse_size(text)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    return file


def test_history_and_metrics_are_read(tmp_path: Path) -> None:
    fleet = load_fleet(
        written(tmp_path, '[history]\nmax_size = "500MB"\n[metrics]\nport = 9464\n'), environ={}
    )
    assert fleet.history.max_size == 500_000_000
    assert fleet.metrics.port == 9464
    assert load_fleet(written(tmp_path, ""), environ={}).metrics.port is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[history]\nmax_size = "lots"\n', ':2: history.max_size: "lots" is not a size'),
        ("[history]\nmax_size = 5\n", "history.max_size: must be at least 10MB"),
        ("[metrics]\nprt = 1\n", 'metrics.prt: unknown key; did you mean "port"?'),
        ("[metrics]\nport = 4000\n", "port 4000 is already taken by the gateway"),
    ],
)
def test_what_does_not_hold_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(FleetError) as error:
        load_fleet(written(tmp_path, text), environ={})
    assert told in str(error.value)
