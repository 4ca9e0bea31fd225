"""The selective parser against prometheus_client, and against what is no metrics text."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from vllm_console.telemetry.metric import Kind, Metric, wire_names
from vllm_console.telemetry.names import DERIVED, METRICS
from vllm_console.telemetry.parse import ParseError, Parser, parse
from vllm_console.telemetry.sample import Histogram, Sample

_DATA = Path(__file__).parent / "data"
_REAL = ("idle", "loaded", "loaded_peak", "dp2", "fine_buckets", "generated")


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
    engines: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        for source in metric.sources:
            found = [by_name.get(name, []) for name in wire_names(metric, source)]
            if any(found):
                break
        else:
            continue
        values = [value for _, value in found[0]]
        if metric.kind is Kind.INFO:
            info |= {k: v for k, v in found[0][0][0].items() if k != "engine"}
            tokens = [_capacity(labels) for labels, _ in found[0]]
            if None not in tokens:
                gauges["kv_cache_tokens"] = math.fsum(n for n in tokens if n is not None)
        elif metric.kind is Kind.STAMPED:
            newest = max(found[0], key=lambda one: one[1])[0]
            info |= newest
            for state in ("running", "waiting"):
                adapters = newest.get(f"{state}_lora_adapters")
                if adapters is not None:
                    gauges[f"lora_{state}"] = len(adapters.split(",")) if adapters else 0
        elif metric.kind is not Kind.HISTOGRAM:
            scalars = gauges if metric.kind is Kind.GAUGE else counters
            if metric.whole:
                scalars[metric.name] = _fold(metric, values)
            for part, part_values in _by_label(found[0], metric.split).items():
                scalars[f"{metric.name}:{part}"] = _fold(metric, part_values)
            apart = _by_label(found[0], "engine")
            if metric.by_engine and len(apart) > 1:
                for engine, own in apart.items():
                    engines.setdefault(engine, {})[metric.name] = _fold(metric, own)
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
    return Sample(0.0, counters, gauges, histograms, info, engines)


def _fold(metric: Metric, values: list[float]) -> float:
    return math.fsum(values) / (len(values) if metric.averaged else 1)


def _by_label(
    series: list[tuple[dict[str, str], float]], label: str | None
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for labels, value in series:
        if label in labels:
            found.setdefault(labels[label], []).append(value)
    return found


def _capacity(labels: dict[str, str]) -> int | None:
    if labels.get("kv_cache_size_tokens", "").isdecimal():
        return int(labels["kv_cache_size_tokens"])
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(size) if blocks.isdecimal() and size.isdecimal() else None


@pytest.mark.parametrize("name", _REAL)
def test_a_real_scrape_reads_as_prometheus_client_reads_it(name: str) -> None:
    body = _real(name)
    assert parse(body) == _oracle(body.decode())


_NOT_EVERYWHERE = {
    "corrupted_requests",
    "host_kv_cache_usage",
    "kv_block_idle_s",
    "kv_block_lifetime_s",
    "kv_block_reuse_gap_s",
    "kv_fetch",
    "lora_info",
    "lora_running",
    "lora_waiting",
    "sleep_operations",
    "spec_accepted_at",
    "spec_accepted_tokens",
    "spec_draft_tokens",
    "spec_drafts",
    "spec_emitted_tokens",
    "swapped",
}
"""What a plain vLLM 0.32 does not export: old names, and those of features that are off."""


def test_a_real_scrape_has_every_name_of_the_vocabulary() -> None:
    sample = parse(_real("loaded"))
    names = {name.partition(":")[0] for part in (sample.counters, sample.gauges) for name in part}
    names |= set(sample.histograms)
    ours = {m.name for m in METRICS if m.kind is not Kind.INFO} | set(DERIVED)
    assert ours - names == _NOT_EVERYWHERE
    assert sample.counters["requests_finished"] == 45
    assert sample.counters["requests_finished:length"] == 45
    assert sample.histograms["itl_s"].count == 48840
    assert sample.info["num_gpu_blocks"] == "64"
    assert sample.gauges["kv_cache_tokens"] == 64 * 128
    assert sample.gauges["sleep:awake"] == 1
    assert sample.gauges["waiting_for:capacity"] == 0
    assert "sleep" not in sample.gauges
    assert sample.counters["prompt_tokens_from:local_cache_hit"] == 6016
    assert sample.counters["admission_rejections"] == 0
    assert sample.histograms["max_tokens"].count == 45
    assert sample.info["cache_dtype"] == "auto"


def test_two_engines_are_one_sample() -> None:
    sample = parse(_real("dp2"))
    assert sample.counters["prefix_cache_queries"] == 5673 + 4804
    assert "process_start_time" not in sample.gauges
    assert "engine" not in sample.info
    assert sample.engines.keys() == {"0", "1"}
    apart = [engine["generation_tokens"] for engine in sample.engines.values()]
    assert sum(apart) == sample.counters["generation_tokens"] > max(apart) > 0
    assert parse(_real("loaded")).engines == {}


_LORA = b"""\
vllm:lora_requests_info{max_lora="4",waiting_lora_adapters="",running_lora_adapters="a,b"} 100.0
vllm:lora_requests_info{max_lora="4",waiting_lora_adapters="c",running_lora_adapters="a"} 90.0
"""


def test_the_adapters_of_now_are_those_of_the_newest_stamp() -> None:
    parser = Parser()
    sample = parser.parse(_LORA, 0.0)
    assert (sample.gauges["lora_running"], sample.gauges["lora_waiting"]) == (2, 0)
    assert sample.info["running_lora_adapters"] == "a,b"
    sample = parser.parse(_LORA.replace(b"} 90.0", b"} 110.0"), 1.0)
    assert (sample.gauges["lora_running"], sample.gauges["lora_waiting"]) == (1, 1)
    assert (sample.info["running_lora_adapters"], sample.info["max_lora"]) == ("a", "4")


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [
        (b'kv_cache_size_tokens="4096",num_gpu_blocks="9",block_size="16"', 4096.0),
        (b'kv_cache_size_tokens="None",num_gpu_blocks="9",block_size="16"', 144.0),
        (b'num_gpu_blocks="9",block_size="16"', 144.0),
        (b'num_gpu_blocks="None",block_size="16"', None),
    ],
)
def test_the_size_of_the_kv_cache_is_known_where_the_engine_says_it(
    labels: bytes, tokens: float | None
) -> None:
    sample = parse(b"vllm:cache_config_info{" + labels + b"} 1.0\n")
    assert sample.gauges.get("kv_cache_tokens") == tokens


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
        (b"\x1f\x8b\x08\x00\x00\n", "not Prometheus text: compressed"),
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


def test_a_number_in_the_place_of_a_series_is_no_value_of_it() -> None:
    warm = Parser()
    warm.parse(_BASE, 0.0)
    with pytest.raises(ParseError, match="line 3 is not Prometheus text"):
        warm.parse(_BASE.replace(b'vllm:num_requests_running{engine="0"} 2.0', b"123"), 0.0)


_COUNTS = st.integers(0, 10**12)
_LABEL_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=6)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


_SOURCES = [(metric, source) for metric in METRICS for source in metric.sources]
_SPLIT_TEXT = st.one_of(st.sampled_from(["stop", "0", "capacity"]), _LABEL_TEXT)


@dataclass(frozen=True)
class _Family:
    """One metric of a made-up vLLM: what its lines hold, not yet how they are spelt."""

    name: str
    kind: str
    lines: tuple[tuple[str, tuple[tuple[str, str], ...], float], ...]


@st.composite
def _families(draw: st.DrawFn, engines: Sequence[str], model: str) -> tuple[_Family, ...]:
    """Any mix of sources; the same metric may come under its old and its new name."""
    families = []
    for metric, source in draw(st.lists(st.sampled_from(_SOURCES), max_size=8, unique=True)):
        name = wire_names(metric, source)[0].removesuffix("_bucket")
        bounds = sorted(draw(st.sets(st.floats(1e-3, 1e6), max_size=3)))
        lines: list[tuple[str, tuple[tuple[str, str], ...], float]] = []
        for engine in engines:
            labels = (("engine", engine), ("model_name", model))
            if metric.kind is Kind.INFO:
                size = ("kv_cache_size_tokens", draw(st.sampled_from(["None", "4096"])))
                lines.append((name, (*labels, ("dtype", draw(_LABEL_TEXT)), size), 1.0))
            elif metric.kind is Kind.STAMPED:
                lines += [
                    (name, (("running_lora_adapters", text),), float(draw(_COUNTS)))
                    for text in draw(st.sets(_LABEL_TEXT, min_size=1, max_size=2))
                ]
                break
            elif metric.kind is Kind.HISTOGRAM:
                total = 0
                for le in (*map(repr, bounds), "+Inf"):
                    total += draw(st.integers(0, 1000))
                    lines.append((name + "_bucket", (*labels, ("le", le)), float(total)))
                lines.append((name + "_count", labels, float(total)))
                lines.append((name + "_sum", labels, draw(st.floats(0, 1e9))))
            elif metric.split is not None:
                lines += [
                    (name, (*labels, (metric.split, part)), float(draw(_COUNTS)))
                    for part in draw(st.sets(_SPLIT_TEXT, min_size=1, max_size=3))
                ]
            else:
                lines.append((name, labels, float(draw(_COUNTS))))
        kind = str(metric.kind) if metric.kind is Kind.HISTOGRAM else "gauge"
        families.append(_Family(name, "counter" if name.endswith("_total") else kind, tuple(lines)))
    return tuple(families)


@st.composite
def _spelt(draw: st.DrawFn, families: Sequence[_Family]) -> str:
    """The families as text: any number format, blanks where they may stand, labels in any order."""
    form = draw(st.sampled_from(["{!r}", "{:.17g}", "{:e}"]))
    blank = draw(st.sampled_from(["", "", " ", "\t", " \t "]))
    stamp = draw(st.sampled_from(["", "", " 1700000000000", "\t-5"]))
    comma = draw(st.sampled_from(["", ","]))
    order = draw(st.permutations(range(4)))
    lines = ["vllm:always 1", draw(st.sampled_from(["", blank, "#", "# any words", "#TYPE"]))]
    for family in families:
        lines += [f"# HELP {family.name} Words.", f"# TYPE {family.name} {family.kind}"]
        for name, labels, value in family.lines:
            ordered = [labels[i] for i in order if i < len(labels)]
            inner = f"{blank},{blank}".join(f'{k}{blank}={blank}"{_escape(v)}"' for k, v in ordered)
            number = form.format(value) + stamp + blank
            lines.append(f"{blank}{name}{blank}{{{blank}{inner}{blank}{comma}}}{blank}{number}")
    lines.append('python_info{text="' + _escape(draw(_LABEL_TEXT)) + '"} NaN')
    return "\n".join(lines) + "\n"


@st.composite
def _scrapes(draw: st.DrawFn) -> list[str]:
    """Texts of one URL, one after the other: anything may differ from one to the next."""
    model = draw(_LABEL_TEXT)
    texts: list[str] = []
    families: tuple[_Family, ...] = ()
    for number in range(draw(st.integers(1, 3))):
        if not number or draw(st.booleans()):
            engines = [str(n) for n in range(draw(st.integers(1, 3)))]
            families = draw(_families(engines, model))
        texts.append(draw(_spelt(families)))
    return texts


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=_scrapes())
def test_any_exposition_reads_as_prometheus_client_reads_it(texts: list[str]) -> None:
    warm = Parser()
    for text in texts:
        oracles = _oracle(text)
        for ours in (parse(text.encode()), warm.parse(text.encode(), 0.0)):
            assert ours.counters == oracles.counters
            assert ours.gauges == pytest.approx(oracles.gauges, rel=1e-12)
            assert ours.histograms == oracles.histograms
            assert ours.info == oracles.info
            assert ours.engines.keys() == oracles.engines.keys()
            for engine, numbers in ours.engines.items():
                assert numbers == pytest.approx(oracles.engines[engine], rel=1e-12)


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
