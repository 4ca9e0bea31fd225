"""A worker that serves chat: what it counts, second by second or in larger steps."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from itertools import accumulate

from vllm_console.telemetry.sample import Histogram, Sample

TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TTFT = (*TTFT, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
ITL = (*ITL, 20.0, 40.0, 80.0)
REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0)
REQUEST = (*REQUEST, 240.0, 480.0, 960.0, 1920.0, 7680.0)
BOUNDS = {"ttft_s": TTFT, "itl_s": ITL, "tpot_s": ITL, "e2e_s": REQUEST, "queue_s": REQUEST}
"""vLLM's own."""
DAY_S = 86_400.0


class Simulated:
    """A worker whose load swings with the day and by minutes; requests come as they like.

    `busy` multiplies its load; `slower` stretches every time it measures from then on.
    """

    def __init__(self, seed: int, busy: float = 1.0) -> None:
        self._chance = random.Random(seed)
        draw = self._chance.uniform
        self._phase, self._base = draw(0, 2 * math.pi), busy * draw(1, 6)
        self._ttft, self._tpot = draw(0.12, 0.35), draw(0.012, 0.03)
        self.slower = 1.0
        self._counters = (
            dict.fromkeys(
                ("prompt_tokens", "generation_tokens", "prefix_cache_queries", "prefix_cache_hits"),
                0.0,
            )
            | dict.fromkeys(("preemptions", "requests_finished", "requests_finished:stop"), 0.0)
            | dict.fromkeys(("requests_finished:length", "requests_finished:abort"), 0.0)
        )
        self._buckets = {name: [0] * (len(bounds) + 1) for name, bounds in BOUNDS.items()}
        self._sums = dict.fromkeys(BOUNDS, 0.0)
        self._kept = {
            name: Histogram(bounds, (0.0,) * (len(bounds) + 1), 0.0)
            for name, bounds in BOUNDS.items()
        }

    def step(self, at: float, seconds: float) -> Sample:
        """What it has counted at `at`, after so many seconds more."""
        chance = self._chance
        swing = 1 + 0.6 * math.sin(2 * math.pi * at / DAY_S + self._phase)
        swing += 0.25 * math.sin(2 * math.pi * at / 613 + self._phase)
        load = self._base * max(0.05, swing)
        requests = self._poisson(load * seconds)
        running = self._poisson(load * 6)
        waiting = max(0, self._poisson(load) - 6)
        tokens = self._poisson(max(running, 1) / self._tpot * seconds / 3)
        prompts = self._poisson(requests * 520.0)
        stopped = sum(chance.random() < 0.8 for _ in range(min(requests, 30)))
        stopped = round(stopped * requests / max(1, min(requests, 30)))
        counters = self._counters
        for name, grown in (
            ("prompt_tokens", prompts), ("prefix_cache_queries", prompts),
            ("prefix_cache_hits", int(0.4 * prompts)), ("generation_tokens", tokens),
            ("preemptions", int(chance.random() < 0.002 * seconds)),
            ("requests_finished", requests),
            ("requests_finished:stop", stopped), ("requests_finished:length", requests - stopped),
        ):  # fmt: skip
            counters[name] += grown
        self._observe("ttft_s", requests, self._ttft * (1 + waiting * 0.2), 0.7)
        self._observe("itl_s", tokens, self._tpot, 0.35)
        self._observe("tpot_s", requests, self._tpot, 0.2)
        self._observe("e2e_s", requests, 6.0, 0.6)
        self._observe("queue_s", requests, 0.002 + 0.1 * waiting, 0.5)
        gauges = {
            "running": float(running),
            "waiting": float(waiting),
            "kv_cache_usage": min(1.0, max(0.0, running / 80 + chance.gauss(0, 0.003))),
            "process_start_time": 1.0,
        }
        return Sample(at, dict(counters), gauges, dict(self._kept))

    def _observe(self, name: str, count: int, typical: float, spread: float) -> None:
        if not count:
            return
        bounds, buckets, typical = BOUNDS[name], self._buckets[name], typical * self.slower
        chance = self._chance
        if count <= 20:
            for _ in range(count):
                value = typical * math.exp(spread * chance.gauss(0, 1))
                buckets[bisect_left(bounds, value)] += 1
                self._sums[name] += value
        else:
            left, before = count, 0.0
            for index, bound in enumerate(bounds):
                share = 0.5 + 0.5 * math.erf(math.log(bound / typical) / spread / math.sqrt(2))
                mean = count * (share - before)
                before = share
                if mean > 1e-3:
                    many = mean + math.sqrt(mean) * chance.gauss(0, 1)
                    fallen = min(left, max(0, round(many)))
                    buckets[index] += fallen
                    left -= fallen
                if share > 1 - 1e-9 or not left:
                    break
            buckets[bisect_left(bounds, typical)] += left
            self._sums[name] += (
                count * typical * math.exp(spread**2 / 2) * chance.uniform(0.98, 1.02)
            )
        counts = tuple(map(float, accumulate(buckets)))
        self._kept[name] = Histogram(bounds, counts, self._sums[name])

    def _poisson(self, mean: float) -> int:
        if mean > 30:
            return max(0, round(self._chance.gauss(mean, math.sqrt(mean))))
        limit, product, count = math.exp(-mean), self._chance.random(), 0
        while product > limit:
            product *= self._chance.random()
            count += 1
        return count
