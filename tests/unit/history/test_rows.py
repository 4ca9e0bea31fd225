"""Packed samples: whole again when asked for, and ever fewer the older."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vllm_console.history.rows import Rows, Shape, pack
from vllm_console.telemetry.sample import Histogram, Sample

_NUMBERS = st.floats(0, 1e15)
_NAMED = st.dictionaries(st.text(max_size=4), _NUMBERS, max_size=4)


@st.composite
def _histograms(draw: st.DrawFn) -> Histogram:
    bounds = sorted(draw(st.sets(_NUMBERS, max_size=4)))
    size = len(bounds) + 1
    counts = draw(st.lists(_NUMBERS, min_size=size, max_size=size))
    return Histogram(tuple(bounds), tuple(counts), draw(_NUMBERS))


@given(
    counters=_NAMED,
    gauges=_NAMED,
    histograms=st.dictionaries(st.text(max_size=4), _histograms(), max_size=3),
)
def test_a_packed_sample_is_the_sample(
    counters: dict[str, float], gauges: dict[str, float], histograms: dict[str, Histogram]
) -> None:
    sample = Sample(3.0, counters, gauges, histograms, {"dtype": "auto"})
    assert Shape.of(sample).unpack(3.0, pack(sample), sample.info) == sample


def test_rows_thin_out_with_age() -> None:
    rows = Rows(((90.0, 0.0), (900.0, 10.0), (3600.0, 60.0)))
    for at in range(5001):
        rows.add(Sample(float(at), {"n": 2.0 * at}))
    kept = []
    moment = 5000.0
    while (sample := rows.before(moment)) is not None:
        assert sample.counters == {"n": 2.0 * sample.at}
        kept.append(sample.at)
        moment = sample.at - 0.5
    gaps = [(5000 - a, a - b) for a, b in pairwise(kept)]
    assert {gap for age, gap in gaps if age < 89} == {1.0}
    assert {gap for age, gap in gaps if 100 < age < 880} == {10.0}
    assert {gap for age, gap in gaps if age > 1000} == {60.0}
    assert 3500 < 5000 - kept[-1] <= 3600


def test_the_neighbours_of_a_moment_are_found_in_every_tier() -> None:
    rows = Rows(((10.0, 0.0), (100.0, 5.0)))
    for at in range(201):
        rows.add(Sample(float(at)))
    for moment in (105.5, 150.5, 191.5, 199.5):
        before, after = rows.before(moment), rows.after(moment)
        assert before is not None
        assert after is not None
        assert before.at < moment < after.at
        assert after.at - before.at <= 5.0
    assert rows.before(50.0) is None
    assert rows.after(200.0) is None
