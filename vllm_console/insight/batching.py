"""What measured steps say about a model's batch: how latency grows with it, and what to change.

A sample is one second of one busy engine. The fit is least squares of the mean inter-token latency
of that second over the requests running in it: a line, or a line with one knee where that explains
more, as decoding is flat while weights dominate and grows once the batch does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from vllm_console.snapshot import Advice, Batching, Slo, StepTime

ENOUGH = 60
"""Samples below which nothing is advised."""
_LEVELS = 3
"""Sizes of the batch that must have been seen for a slope."""
_GROUPS = 40
"""Sizes of batch that are told apart: a fit of more is no better, and takes longer."""
_GOOD_R2 = 0.5
"""Share of the variance that a fit must explain to be relied upon."""
_KNEE_GAIN = 0.05
"""Variance that a knee must explain beyond the line."""
_BEYOND = 1.5
"""How far above the largest batch measured a fit is believed."""
_SHARE = 0.8
"""Without a target, the batch that gives this share of the most tokens a second."""
_OFTEN = 0.5
_FULL_KV = 0.9
_ROOMY_KV = 0.75


NO_TARGETS = Slo()


@dataclass(frozen=True, slots=True)
class Second:
    """What one engine did between two samples about a second apart."""

    at: float
    """Its end, in seconds."""
    running: float
    waiting: float
    itl_s: float
    """Mean inter-token latency of the tokens that came."""
    kv: float | None = None
    """Share of the KV cache in use."""
    preemptions: float = 0.0
    tokens_per_step: float | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What bounds the batch of one worker, and the targets it must hold."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_queued_reqs: int | None = None
    slo: Slo = NO_TARGETS
    ttft_p95_s: float | None = None
    """What is sure of it: the lower bound where it is only known between two."""
    itl_p95_s: float | None = None
    itl_tail: float = 1.0
    """ITL P95 over mean ITL of the same window."""
    requests_per_s: float | None = None
    """Requests that one worker finishes a second."""


def batching(seconds: Sequence[Second], bounds: Bounds) -> Batching:
    """Everything the samples of a model's engines, oldest first, say; the policy is left out."""
    count = len(seconds)
    span = seconds[-1].at - seconds[0].at if seconds else 0.0
    if count < ENOUGH:
        few = f"not enough samples yet: {count} of {ENOUGH}"
        return Batching(samples=count, enough=ENOUGH, measured_s=span, reason=few)
    found = fit([(s.running, s.itl_s) for s in seconds])
    reason = _doubt(found, seconds)
    best: int | None = None
    best_for: str | None = None
    if found is not None and reason is None:
        best, best_for = best_batch(found, bounds)
    return Batching(
        samples=count,
        enough=ENOUGH,
        measured_s=span,
        fit=found,
        reason=reason,
        best=best,
        best_for=best_for,
        advice=tuple(advice(seconds, bounds, found, best)),
    )


def _doubt(found: StepTime | None, seconds: Sequence[Second]) -> str | None:
    """Why a fit says nothing about other batches; `None` where it does."""
    if found is None:
        running = [s.running for s in seconds]
        return f"the batch was always {min(running):.0f} to {max(running):.0f}: no slope to see"
    if found.r2 < _GOOD_R2:
        return f"the batch explains {found.r2:.0%} of the latency: too little to go by"
    if found.per_request_s < 0 or found.per_request_s + found.beyond_s <= 0:
        return "latency does not grow with the batch: nothing to trade"
    return None


def fit(points: Sequence[tuple[float, float]]) -> StepTime | None:
    """Latency over running, of (running, seconds) a sample; `None` below three sizes of batch."""
    if len({round(running) for running, _ in points}) < _LEVELS:
        return None
    low, high = min(points)[0], max(points)[0]
    step = max(1.0, (high - low) / _GROUPS)
    groups: dict[int, list[float]] = {}
    for running, value in points:
        group = groups.setdefault(round((running - low) / step), [0.0, 0.0, 0.0, 0.0])
        for place, term in enumerate((1.0, running, value, value * value)):
            group[place] += term
    found = [groups[key] for key in sorted(groups)]
    weights = [group[0] for group in found]
    levels = [group[1] / group[0] for group in found]
    means = [group[2] / group[0] for group in found]
    mean = sum(group[2] for group in found) / len(points)
    within = sum(squares - total * total / n for n, _, total, squares in found)
    total = within + sum(w * (y - mean) ** 2 for w, y in zip(weights, means, strict=True))
    if total <= 0:
        return None

    def explained(knee: int | None) -> tuple[float, tuple[float, ...]] | None:
        rows = [(1.0, float(x), *(() if knee is None else (max(0.0, x - knee),))) for x in levels]
        terms = _least_squares(rows, means, weights)
        if terms is None:
            return None
        missed = within + sum(
            w * (y - sum(c * v for c, v in zip(terms, row, strict=True))) ** 2
            for w, y, row in zip(weights, means, rows, strict=True)
        )
        return 1 - missed / total, terms

    line = explained(None)
    if line is None:
        return None
    knee, best = None, line
    for at in _knees(levels, weights):
        bent = explained(at)
        if bent is not None and bent[0] > max(line[0] + _KNEE_GAIN, best[0]) and bent[1][2] > 0:
            knee, best = at, bent
    r2, (base, slope, *beyond) = best
    return StepTime(
        base_s=base,
        per_request_s=slope,
        knee=knee,
        beyond_s=beyond[0] if beyond else 0.0,
        r2=max(0.0, r2),
        lowest=round(low),
        highest=round(high),
    )


def _knees(levels: Sequence[float], weights: Sequence[float]) -> list[int]:
    """Where a knee may lie: at eighths of the samples, with two sizes on either side."""
    if len(levels) < 6:
        return []
    sums = list(accumulate(weights))
    places = {bisect_right(sums, sums[-1] * k / 8) for k in range(1, 8)}
    return [round(levels[i]) for i in sorted(places) if 2 <= i < len(levels) - 2]


def _least_squares(
    rows: Sequence[tuple[float, ...]], values: Sequence[float], weights: Sequence[float]
) -> tuple[float, ...] | None:
    """Coefficients by the weighted normal equations; `None` where they have no one solution."""
    size = len(rows[0])
    table = [
        [
            *(
                sum(w * r[i] * r[j] for w, r in zip(weights, rows, strict=True))
                for j in range(size)
            ),
            sum(w * r[i] * v for w, r, v in zip(weights, rows, values, strict=True)),
        ]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(table[k][i]))
        table[i], table[pivot] = table[pivot], table[i]
        if abs(table[i][i]) < 1e-12:
            return None
        for k in range(size):
            if k != i:
                ratio = table[k][i] / table[i][i]
                table[k] = [a - ratio * b for a, b in zip(table[k], table[i], strict=True)]
    return tuple(table[i][size] / table[i][i] for i in range(size))


def latency_at(found: StepTime, running: float) -> float:
    """Mean inter-token latency in seconds of a batch, by the fit."""
    beyond = 0.0 if found.knee is None else max(0.0, running - found.knee)
    return found.base_s + found.per_request_s * running + found.beyond_s * beyond


def best_batch(found: StepTime, bounds: Bounds) -> tuple[int, str]:
    """The largest batch whose ITL P95 holds its target, and what that is; 0 where none does.

    P95 is taken to stay as far above the mean as it is now. Without a target, the batch that
    gives `_SHARE` of the most tokens a second the last slope allows. Never more than half
    above the largest batch measured.
    """
    most = max(found.highest, int(found.highest * _BEYOND))
    target = bounds.slo.itl_p95_s
    if target is not None:
        tail = max(1.0, bounds.itl_tail)
        sizes = (n for n in range(most, 0, -1) if latency_at(found, n) * tail <= target)
        return next(sizes, 0), f"ITL p95 ≤ {target * 1e3:.4g} ms"
    ceiling = 1 / (found.per_request_s + found.beyond_s)
    sizes = (n for n in range(1, most) if n / latency_at(found, n) >= _SHARE * ceiling)
    return next(sizes, most), f"{_SHARE:.0%} of the most tok/s"


def advice(
    seconds: Sequence[Second], bounds: Bounds, found: StepTime | None, best: int | None
) -> list[Advice]:
    """What to change, the missed targets first; one "ok" where there is nothing."""
    told = [
        *_on_slots(seconds, bounds, found, best),
        *_on_kv(seconds, bounds),
        *_on_budget(seconds, bounds),
        *_on_queue(seconds, bounds),
    ]
    told.sort(key=lambda a: a.level != "warn")
    if not told and bounds.max_num_seqs is not None:
        text = f"keep max_num_seqs {bounds.max_num_seqs}"
        told.append(Advice("ok", text, _calm(seconds, bounds, best)))
    return told


def _on_slots(
    seconds: Sequence[Second], bounds: Bounds, found: StepTime | None, best: int | None
) -> list[Advice]:
    """Fewer sequences where the latency target is missed, more where it has room to queue for."""
    slots, target, p95 = bounds.max_num_seqs, bounds.slo.itl_p95_s, bounds.itl_p95_s
    if slots is None or found is None or best is None:
        return []
    if target is not None and p95 is not None and p95 > target and best < found.highest:
        missed = f"ITL p95 {_ms(p95)} > {_ms(target)} ms"
        if best == 0:
            least = f"{_ms(latency_at(found, 1))} ms"
            return [Advice("warn", "no batch holds the ITL target", f"{missed}; one takes {least}")]
        text = f"max_num_seqs {slots} → {best}"
        return [Advice("warn", text, f"{missed}; {best} hold it")]
    full = _share(s.running >= 0.95 * slots and s.waiting > 0 for s in seconds)
    kv = [s.kv for s in seconds if s.kv is not None]
    if full >= _OFTEN and best > slots and kv:
        more = min(best, int(slots * _ROOMY_KV / max(0.01, *kv)))
        if more > slots:
            text = f"max_num_seqs {slots} → {more}"
            why = f"full and queueing {full:.0%} of the time, KV at most {max(kv):.0%}"
            return [Advice("info", text, why)]
    return []


def _on_kv(seconds: Sequence[Second], bounds: Bounds) -> list[Advice]:
    """A batch that the KV cache holds, where a larger one is preempted again and again."""
    preempted = sum(s.preemptions for s in seconds)
    full = [s.running for s in seconds if s.kv is not None and s.kv >= _FULL_KV]
    if preempted < 3 or not full or bounds.max_num_seqs is None:
        return []
    holds = max(1, int(sum(full) / len(full)))
    if holds >= bounds.max_num_seqs:
        return []
    text = f"max_num_seqs {bounds.max_num_seqs} → {holds} or more KV"
    why = f"{preempted:.0f} preemptions, KV full at {holds}"
    return [Advice("warn", text, why)]


def _on_budget(seconds: Sequence[Second], bounds: Bounds) -> list[Advice]:
    """A larger token budget where prefills wait for it while decoding has time to spare."""
    budget, target = bounds.max_num_batched_tokens, bounds.slo.ttft_p95_s
    if budget is None or target is None or (bounds.ttft_p95_s or 0.0) <= target:
        return []
    full = _share(
        s.tokens_per_step is not None and s.tokens_per_step >= 0.8 * budget for s in seconds
    )
    itl, spare = bounds.itl_p95_s, bounds.slo.itl_p95_s
    if full < 0.1 or (itl is not None and spare is not None and itl > spare / 2):
        return []
    text = f"max_num_batched_tokens {budget} → {2 * budget}"
    missed = f"TTFT p95 {_ms(bounds.ttft_p95_s)} > {_ms(target)} ms"
    return [Advice("warn", text, f"{missed}; steps full {full:.0%} of the time")]


def _on_queue(seconds: Sequence[Second], bounds: Bounds) -> list[Advice]:
    """A queue no longer than can be served within the target for the first token."""
    target, served = bounds.slo.ttft_p95_s, bounds.requests_per_s
    if target is None or not served or (bounds.ttft_p95_s or 0.0) <= target:
        return []
    waits = _share(s.waiting > 0 for s in seconds)
    holds = max(1, int(served * target))
    if waits < _OFTEN or (bounds.max_num_queued_reqs or float("inf")) <= holds:
        return []
    was = "" if bounds.max_num_queued_reqs is None else f"{bounds.max_num_queued_reqs} → "
    text = f"max_num_queued_reqs {was}{holds}"
    why = f"TTFT p95 {_ms(bounds.ttft_p95_s)} > {_ms(target)} ms, {served:.3g} req/s"
    return [Advice("warn", text, why)]


def _calm(seconds: Sequence[Second], bounds: Bounds, best: int | None) -> str:
    largest = max(s.running for s in seconds)
    parts = [f"{largest:.0f} running at most"]
    target, p95 = bounds.slo.itl_p95_s, bounds.itl_p95_s
    if target is not None and p95 is not None:
        parts.append(f"ITL p95 {_ms(p95)} of {_ms(target)} ms")
    if best:
        parts.append(f"{best} would do")
    return ", ".join(parts)


def _share(holds: Iterable[bool]) -> float:
    values = list(holds)
    return sum(values) / len(values)


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.3g}"
