"""The selective parser against prometheus_client, and against what is no metrics text."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from vllm_console.telemetry.names import METRICS, Kind, wire_names
from vllm_console.telemetry.parse import ParseError, Parser, parse
from vllm_console.telemetry.sample import Histogram, Sample

_DATA = Path(__file__).parent / "data"
_REAL = ("idle", "loaded", "loaded_peak", "dp2")


def _real(name: str) -> bytes:
    return gzip.decompress((_DATA / f"{name}.txt.gz").read_bytes())


def _oracle(text: str) -> Sample:
    """The sample of a text by way of prometheus_client."""
    by_name: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            by_name.setdefault(one.name, []).append((one.labels, float(one.value)))
    counters: dict[str, float] = {}
    gauges: dict[str, float] = {}
    histograms: dict[str, Histogram] = {}
    info: dict[str, str] = {}
    for metric in METRICS:
        for source in metric.sources:
            found = [by_name.get(name, []) for name in wire_names(metric, source)]
            if any(found):
                break
        else:
            continue
        values = [value for _, value in found[0]]
        if metric.kind is Kind.INFO:
            info = {k: v for k, v in found[0][0][0].items() if k != "engine"}
        elif metric.kind is Kind.GAUGE:
            gauges[metric.name] = math.fsum(values) / (len(values) if metric.averaged else 1)
        elif metric.kind is Kind.COUNTER:
            counters[metric.name] = math.fsum(values)
            parts: dict[str, list[float]] = {}
            for labels, value in found[0]:
                if metric.split in labels:
                    parts.setdefault(labels[metric.split], []).append(value)
            for part, part_values in parts.items():
                counters[f"{metric.name}:{part}"] = math.fsum(part_values)
        else:
            buckets: dict[float, list[float]] = {}
            for labels, value in found[0]:
                buckets.setdefault(float(labels["le"]), []).append(value)
            bounds = sorted(buckets)
            histograms[metric.name] = Histogram(
                tuple(bounds[:-1]),
                tuple(math.fsum(buckets[bound]) for bound in bounds),
                math.fsum(value for _, value in found[1]),
            )
    return Sample(0.0, counters, gauges, histograms, info)


@pytest.mark.parametrize("name", _REAL)
def test_a_real_scrape_reads_as_prometheus_client_reads_it(name: str) -> None:
    body = _real(name)
    assert parse(body) == _oracle(body.decode())


def test_a_real_scrape_has_every_name_of_the_vocabulary() -> None:
    sample = parse(_real("loaded"))
    names = {*sample.counters, *sample.gauges, *sample.histograms}
    assert {m.name for m in METRICS if m.kind is not Kind.INFO} <= names
    assert sample.counters["requests_finished"] == 45
    assert sample.counters["requests_finished:length"] == 45
    assert sample.histograms["itl_s"].count == 48840
    assert sample.info["num_gpu_blocks"] == "64"
    assert sample.info["cache_dtype"] == "auto"


def test_two_engines_are_one_sample() -> None:
    sample = parse(_real("dp2"))
    assert sample.counters["prefix_cache_queries"] == 5673 + 4804
    assert "process_start_time" not in sample.gauges
    assert "engine" not in sample.info


def test_reading_on_gives_what_reading_anew_gives() -> None:
    parser = Parser()
    for name in ("idle", "loaded", "loaded_peak", "loaded_peak", "dp2", "loaded"):
        assert parser.parse(_real(name), 0.0) == parse(_real(name))


def test_samples_given_out_stay_as_they_were() -> None:
    parser = Parser()
    peak = parser.parse(_real("loaded_peak"), 1.0)
    parser.parse(_real("loaded"), 2.0)
    assert peak == parse(_real("loaded_peak"), 1.0)


def test_what_did_not_change_is_the_same_object() -> None:
    parser = Parser()
    body = _real("loaded")
    old = parser.parse(body, 1.0)
    old_line = b'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0'
    assert old_line in body
    new = parser.parse(body.replace(old_line, old_line.replace(b" 0.0", b" 7.0")), 2.0)
    assert new.gauges["running"] == 7
    assert new.counters is old.counters
    assert new.histograms is old.histograms


_BASE = b"""\
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_running{engine="1"} 3.0
vllm:kv_cache_usage_perc{engine="0"} 0.2
vllm:kv_cache_usage_perc{engine="1"} 0.4
vllm:generation_tokens_total{engine="0"} 10.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 4.0
vllm:time_to_first_token_seconds_count{engine="0"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0"} 2.5
"""


def test_old_and_new_name_together_are_not_doubled() -> None:
    both = _BASE + b'vllm:gpu_cache_usage_perc{engine="0"} 0.9\n'
    assert parse(both).gauges["kv_cache_usage"] == pytest.approx(0.3)
    old_only = _BASE.replace(b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
    assert parse(old_only) == parse(_BASE)


def test_numbers_of_others_may_be_anything() -> None:
    other = _BASE + b"python_gc_seconds NaN\nother_total +Inf\nother_gauge -3 1700000000000\n"
    parser = Parser()
    assert parser.parse(other, 0.0) == parse(_BASE)
    assert parser.parse(other.replace(b"NaN", b"-Inf"), 0.0) == parse(_BASE)


def test_a_timestamp_is_not_the_value() -> None:
    parser = Parser()
    parser.parse(_BASE, 0.0)
    stamped = _BASE.replace(b'_total{engine="0"} 10.0', b'_total{engine="0"} 11.0 1700000000000')
    assert parser.parse(stamped, 0.0).counters["generation_tokens"] == 11
    assert parse(stamped).counters["generation_tokens"] == 11


_RUNNING = b'vllm:num_requests_running{engine="0"} 2.0'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty answer"),
        (b" \n\n", "empty answer"),
        (b"<html><body>502 Bad Gateway</body></html>\n", "not Prometheus text: '<html>"),
        (b'{"detail": "Not Found"}\n', "line 1 is not Prometheus text: "),
        (b"\x1f\x8b\x08\x00\x00\n", "line 1 is not Prometheus text: "),
        (b"up 1\nother 2\n", "no vLLM metric among 2 series"),
        (_BASE[:-1], "cut off: the last line has no end: 'vllm:time_to_first_token_seconds_sum"),
        (_BASE[:-40], "cut off: the last line has no end"),
        (_BASE.rsplit(b"\n", 2)[0] + b"\n", "lacks its buckets or its sum"),
        (_BASE.replace(b'le="+Inf"', b'le="9"'), "lacks its +Inf bucket"),
        (_BASE.replace(b'le="0.1"', b'le="soon"'), "has a bucket with the bound 'soon'"),
        (_BASE.replace(b'le="0.1"} 1.0', b'le="0.1"} 5.0'), "buckets that do not add up"),
        (_BASE.replace(b'le="0.1"} 1.0', b'le="0.1"} NaN'), "buckets that do not add up"),
        (_BASE.replace(b'sum{engine="0"} 2.5', b'sum{engine="0"} Inf'), "_sum is inf where"),
        (_BASE.replace(b"} 2.0", b"} NaN"), "vllm:num_requests_running is nan where a count"),
        (_BASE.replace(b"} 2.0", b"} 1e999"), "vllm:num_requests_running is inf where a count"),
        (_BASE.replace(b"} 10.0", b"} -10.0"), "vllm:generation_tokens_total is -10 where"),
        (_BASE.replace(b"} 2.0", b"} 2_0"), "line 3 is not Prometheus text"),
        (_BASE.replace(b"} 2.0", b"} "), "line 3 is not Prometheus text"),
        (_BASE + _RUNNING + b"\n", "line 12 repeats a series"),
        (_BASE + b'vllm:x{a="1",b="2"} 1\n' * 2, "line 13 repeats a series"),
        (_BASE.replace(b'{engine="1"} 3', b'{engine="0",} 3'), "repeats a series"),
        (_BASE.replace(b'{engine="1"} 3', b'{a="1",a="2"} 3'), "a label stands twice"),
        (_BASE.replace(b'{engine="1"} 3', b'{engine="\xff"} 3'), "a label is not UTF-8"),
        (
            _BASE
            + b'vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf"} 0\n'
            + b'vllm:time_to_first_token_seconds_sum{engine="1"} 0\n',
            "has other buckets for another engine",
        ),
    ],
)
def test_what_is_not_whole_and_consistent_is_an_error_of_one_line(body: bytes, reason: str) -> None:
    warm = Parser()
    warm.parse(_BASE, 0.0)
    for parser in (Parser(), warm):
        with pytest.raises(ParseError) as caught:
            parser.parse(body, 0.0)
        assert reason in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 140
        assert parser.parse(_BASE, 0.0) == parse(_BASE)


_COUNTS = st.integers(0, 10**12)
_LABEL_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=6)
_NUMBER_FORMATS = st.sampled_from(["{!r}", "{:.17g}", "{:e}"])


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _line(name: str, labels: Sequence[tuple[str, str]], value: str) -> str:
    inner = ",".join(f'{k}="{_escape(v)}"' for k, v in labels)
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


@st.composite
def _expositions(draw: st.DrawFn) -> str:
    """Texts of some vLLM: any mix of sources, engines, bounds and number formats."""
    model = draw(_LABEL_TEXT)
    engines = [str(n) for n in range(draw(st.integers(1, 3)))]
    lines = [_line("vllm:always", (), "1")]
    for metric in METRICS:
        for source in metric.sources:
            if not draw(st.booleans()):
                continue
            kind = "gauge" if metric.kind is Kind.INFO else str(metric.kind)
            name = wire_names(metric, source)[0].removesuffix("_bucket")
            lines += [f"# HELP {name} Words.", f"# TYPE {name} {kind}"]
            bounds = sorted(draw(st.sets(st.floats(1e-3, 1e6), max_size=4)))
            for engine in engines:
                labels = [("engine", engine), ("model_name", model)]
                form = draw(_NUMBER_FORMATS)
                if metric.kind is Kind.INFO:
                    lines.append(_line(name, [*labels, ("dtype", draw(_LABEL_TEXT))], "1.0"))
                elif metric.kind is Kind.HISTOGRAM:
                    total = 0
                    for le in (*map(repr, bounds), "+Inf"):
                        total += draw(st.integers(0, 1000))
                        value = form.format(float(total))
                        lines.append(_line(name + "_bucket", [*labels, ("le", le)], value))
                    lines.append(_line(name + "_count", labels, form.format(float(total))))
                    observed = draw(st.floats(0, 1e9))
                    lines.append(_line(name + "_sum", labels, repr(observed)))
                elif metric.split is not None:
                    for part in draw(st.sets(_LABEL_TEXT, min_size=1, max_size=3)):
                        value = form.format(float(draw(_COUNTS)))
                        lines.append(_line(name, [*labels, (metric.split, part)], value))
                else:
                    lines.append(_line(name, labels, form.format(float(draw(_COUNTS)))))
    lines.append(_line("python_info", [("text", draw(_LABEL_TEXT))], "NaN"))
    return "\n".join(lines) + "\n"


@settings(max_examples=60, deadline=None)
@given(text=_expositions())
def test_any_exposition_reads_as_prometheus_client_reads_it(text: str) -> None:
    ours, oracles = parse(text.encode()), _oracle(text)
    assert ours.counters == oracles.counters
    assert ours.gauges == pytest.approx(oracles.gauges, rel=1e-12)
    assert ours.histograms == oracles.histograms
    assert ours.info == oracles.info


def _outcome(parser: Parser, body: bytes) -> Sample | str:
    try:
        return parser.parse(body, 0.0)
    except ParseError as error:
        return str(error)


_EDITS = st.lists(
    st.tuples(
        st.integers(0, len(_BASE)),
        st.integers(0, 3),
        st.lists(st.sampled_from(b'0123456789.eE+-_ \t\n#{},="aNInf<\\\xff'), max_size=3),
    ),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(histories=st.lists(_EDITS, min_size=1, max_size=4))
def test_a_text_means_the_same_whatever_came_before_it(
    histories: list[list[tuple[int, int, list[int]]]],
) -> None:
    parser = Parser()
    for edits in histories:
        body = _BASE
        for at, deleted, inserted in edits:
            body = body[:at] + bytes(inserted) + body[at + deleted :]
        assert _outcome(parser, body) == _outcome(Parser(), body)


@settings(max_examples=100, deadline=None)
@given(numbers=st.lists(st.text("0123456789.eE+-_nainf ", max_size=6), min_size=1, max_size=4))
def test_a_changed_number_is_read_as_strictly_as_a_first_one(numbers: list[str]) -> None:
    parser = Parser()
    parser.parse(_BASE, 0.0)
    for number in numbers:
        body = _BASE.replace(b"} 3.0", b"} " + number.encode())
        assert _outcome(parser, body) == _outcome(Parser(), body)
