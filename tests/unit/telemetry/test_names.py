"""The vocabulary against the names found in the sources of vLLM releases."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_console.telemetry.metric import Kind, Metric, Source, wire_names
from vllm_console.telemetry.names import AVERAGED, DERIVED, MARKS, METRICS, VERSIONS
from vllm_console.telemetry.parse import parse
from vllm_console.telemetry.unread import UNREAD

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
        if source.name.startswith("vllm:") and not source.name.endswith("_created")
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


def test_the_newest_source_of_a_metric_stands_first() -> None:
    for metric in METRICS:
        assert all(source.last is not None for source in metric.sources[1:])
        firsts = [VERSIONS.index(source.first) for source in metric.sources]
        assert firsts == sorted(firsts, reverse=True)


def test_every_source_names_the_file_that_defines_it() -> None:
    assert all(source.file.endswith(".py") for _, source in _sources())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_of_a_version_is_read_or_stands_with_a_reason(version: str) -> None:
    read = {name for metric, source in _sources() for name in (source.name, source.name + "_total")}
    names = _names_by_version()[version]
    assert names - read - set(UNREAD) == set()
    assert not read & set(UNREAD)


def _line(metric: Metric, source: Source) -> str:
    labels = 'engine="0"' + (f',{metric.split}="x"' if metric.split else "")
    lines = [f"{name}{{{labels}}} 1" for name in wire_names(metric, source)]
    if metric.kind is Kind.HISTOGRAM:
        lines[0] = lines[0].replace("}", ',le="+Inf"}')
    return "\n".join(lines)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_text_of_a_version_gives_all_of_our_names_that_the_version_knows(version: str) -> None:
    known = _names_by_version()[version]
    has = {
        metric: source
        for metric, source in reversed(_sources())
        if {source.name, source.name + "_total"} & known
    }
    sample = parse("\n".join([*(_line(*one) for one in has.items()), ""]).encode())
    got = {*sample.counters, *sample.gauges, *sample.histograms}
    assert len(has) > 10
    assert {
        f"{metric.name}:x" if metric.split else metric.name
        for metric in has
        if metric.kind not in (Kind.INFO, Kind.STAMPED)
    } <= got


def test_nothing_stands_as_unread_that_no_version_has() -> None:
    assert set(UNREAD) <= set().union(*_names_by_version().values())
    assert all(UNREAD.values())


def test_no_wire_name_belongs_to_two_sources() -> None:
    names = [name for metric, source in _sources() for name in wire_names(metric, source)]
    assert len(names) == len(set(names))


def test_our_names_are_unique_and_explained() -> None:
    assert len({metric.name for metric in METRICS} | set(DERIVED)) == len(METRICS) + len(DERIVED)
    assert {"kv_cache_usage", "host_kv_cache_usage"} == AVERAGED
    assert {metric.name for metric in METRICS} >= MARKS
    assert all(metric.meaning.endswith((".", "…", ")")) for metric in METRICS)
