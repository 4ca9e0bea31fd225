"""The vocabulary against the names found in the sources of vLLM releases."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_console.telemetry.names import METRICS, VERSIONS, Kind, Metric, Source, wire_names

_TABLE = Path(__file__).parent / "data" / "metric_names_by_version.txt"


def _names_by_version() -> dict[str, set[str]]:
    header, *rows = _TABLE.read_text().splitlines()
    versions = header.split(" | ")[1:]
    names: dict[str, set[str]] = {version: set() for version in versions}
    for row in rows:
        name, *marks = row.split(" | ")
        for version, mark in zip(versions, marks, strict=True):
            if mark == "x":
                names[version].add(name)
    return names


def _sources() -> list[tuple[Metric, Source]]:
    return [(metric, source) for metric in METRICS for source in metric.sources]


def test_the_versions_are_those_of_the_table() -> None:
    assert tuple(_names_by_version()) == VERSIONS


@pytest.mark.parametrize(
    ("metric", "source"),
    [
        pytest.param(metric, source, id=source.name)
        for metric, source in _sources()
        if source.name.startswith("vllm:")
    ],
)
def test_a_source_exists_in_exactly_the_versions_it_claims(metric: Metric, source: Source) -> None:
    last = source.last or VERSIONS[-1]
    claimed = VERSIONS[VERSIONS.index(source.first) : VERSIONS.index(last) + 1]
    spellings = {source.name}
    if metric.kind is Kind.COUNTER:
        spellings.add(source.name + "_total")
    found = tuple(v for v, names in _names_by_version().items() if names & spellings)
    assert found == claimed


def test_every_metric_that_lives_has_a_source_in_the_newest_version_first() -> None:
    for metric in METRICS:
        assert metric.sources[0].last is None
        assert all(source.last is not None for source in metric.sources[1:])


def test_no_wire_name_belongs_to_two_sources() -> None:
    names = [name for metric, source in _sources() for name in wire_names(metric, source)]
    assert len(names) == len(set(names))


def test_our_names_are_unique_and_explained() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(metric.meaning.endswith((".", "…", ")")) for metric in METRICS)
