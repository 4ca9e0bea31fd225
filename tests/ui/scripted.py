"""A fake fleet with a name, a fake client that plays it, and a clock that stands still."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from queue import SimpleQueue
from threading import Event as Flag
from typing import Any

from tests.ui.scripted_gateway import behind_gateway, in_front_of
from tests.ui.scripted_insight import completed
from tests.ui.scripted_looks import AUDIT, HOLDS, LOOKS, answered, looked
from tests.ui.scripted_past import stored
from vllm_console.answer import Answer, Question
from vllm_console.errors import InvalidInput, NoDaemon, NotFound
from vllm_console.snapshot import (
    Advice,
    Alert,
    Arrivals,
    AuditEntry,
    Autoscale,
    Batching,
    Daemon,
    Engine,
    Event,
    Failure,
    Forecast,
    Gateway,
    Gpu,
    Health,
    Host,
    Latency,
    Load,
    Memory,
    Model,
    Quantiles,
    Scale,
    Slo,
    Snapshot,
    StepTime,
    Worker,
    thin,
)
from vllm_console.ui.trends import Trends, total

GIB = 2**30
NOON = datetime(2026, 11, 20, 12, 4, 31, tzinfo=UTC)
MODELS = (
    ("llama-70b", "meta-llama/Llama-3.3-70B-Instruct", 2, 131.4, 1450.0, 0.121, 0.8),
    ("qwen3-32b", "Qwen/Qwen3-32B", 1, 61.0, 1180.0, 0.194, 0.35),
    ("mistral-24b", "mistralai/Mistral-Small-3.2-24B-Instruct-2506", 1, 44.8, 620.0, 0.121, 0.8),
    ("phi-4", "microsoft/phi-4", 1, 27.4, 900.0, 0.121, 0.8),
)
"""Name, source, GPUs, GiB of weights, tokens a second, median TTFT, its target."""

STEP_BOUNDS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)
"""The buckets of vLLM's `iteration_tokens_total` up to the scripted max_num_batched_tokens."""

LENGTH_BOUNDS = (20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0)
PROMPTS = tuple(zip(LENGTH_BOUNDS, (4, 9, 18, 37, 62, 71, 48, 27, 12, 0), strict=True))
OUTPUTS = tuple(zip(LENGTH_BOUNDS, (11, 29, 58, 81, 74, 32, 3, 0, 0, 0), strict=True))
"""Requests by length, in the buckets that vLLM makes for a context of 32,768 tokens."""

ARRIVALS = (
    Arrivals(4.21, Forecast(4.6, 0.52, 60.0, "trend"), "bursty", 3.4, None, 1800.0),
    Arrivals(4.86, Forecast(5.3, 0.41, 60.0, "season"), "periodic", 2.7, 60.0, 1800.0),
    Arrivals(3.9, Forecast(3.9, 0.38, 60.0, "level"), "steady", 1.1, None, 900.0),
    Arrivals(4.4, Forecast(4.4, 0.44, 60.0, "level"), "steady", 0.9, None, 900.0),
)
IDLE = Batching("limited", 256, None, reason="not enough samples yet: 0 of 60")
BATCHING = (
    Batching(
        "limited", 256, None, 900, 60, 898.0,
        StepTime(0.0061, 0.000021, 128, 0.000034, 0.93, 12, 249), None, 373, "ITL p95 ≤ 50 ms",
        (Advice("ok", "keep max_num_seqs 256", "249 running at most, ITL p95 23.9 of 50 ms"),),
    ),
    Batching(
        "limited", 256, 64, 812, 60, 861.0,
        StepTime(0.0093, 0.000078, None, 0.0, 0.88, 31, 244), None, 237, "ITL p95 ≤ 50 ms",
        (
            Advice("warn", "max_num_seqs 256 → 212 or more KV", "45 preemptions, KV full at 212"),
            Advice("warn", "max_num_queued_reqs 64 → 1", "TTFT p95 405 > 350 ms, 4.28 req/s"),
        ),
    ),
    Batching("limited", 256, None, 41, 60, 44.0, reason="not enough samples yet: 41 of 60"),
    Batching("limited", 256, None, 41, 60, 44.0, reason="not enough samples yet: 41 of 60"),
)  # fmt: skip

OUT_OF_MEMORY = Failure(
    cause="out-of-memory",
    line="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a "
    "total capacity of 140.4 GiB of which 1.20 GiB is free.",
    remedy="lower gpu_memory_utilization, or give it a GPU of its own: devices = [4]",
    at="2026-11-20T11:58:40+00:00",
    exit_code=1,
    log_excerpt=(
        "INFO 11-20 11:58:31 [gpu_model_runner.py:2602] Starting to load model microsoft/phi-4...",
        "INFO 11-20 11:58:38 [default_loader.py:267] Loading weights took 6.21 seconds",
        "ERROR 11-20 11:58:40 [core.py:718] torch.OutOfMemoryError: CUDA out of memory.",
    ),
)


def wave(t: float, period: float, low: float, high: float, phase: float = 0.0) -> float:
    """A sine between two values."""
    return low + (high - low) * (0.5 + 0.5 * math.sin(t / period * math.tau + phase))


def quantiles(median: float, count: int, spread: float = 1.0) -> Quantiles:
    """A latency whose tail grows with `spread`."""
    p95, p99 = median * 2.1 * spread, median * 3.4 * spread
    return Quantiles(median, p95, p99, count, thin=thin(count))


@dataclass(frozen=True, slots=True)
class LabFleet:
    """The fake fleet "lab-a": four models on eight GPUs, the same at every run.

    One serves on two GPUs, one has two workers of which one still starts, one loads, one failed or
    is stopped. `models` above four makes copies with numbered names.
    """

    models: int = 4
    gpus: int = 8
    fourth: str = "stopped"
    """The state of phi-4."""
    alerts: bool = True
    gateway: bool = False
    """Whether one is in front of it."""
    seed: int = 7

    def at(self, t: int) -> Snapshot:
        """The fleet `t` seconds after its script begins."""
        rng = random.Random(self.seed * 1000 + t)
        models = tuple(self._model(i, t, rng) for i in range(self.models))
        now = NOON + timedelta(seconds=t - 140)
        gpus = tuple(self._gpu(i, t, rng) for i in range(self.gpus))
        host = Host("lab-a-1", wave(t, 31, 0.22, 0.61), 64, 212 * GIB, 512 * GIB, 9.4)
        models = tuple(completed(m, gpus, host, i % 4) for i, m in enumerate(models))
        gateway = Gateway()
        if self.gateway:
            models = tuple(behind_gateway(m, i) for i, m in enumerate(models))
            gateway = in_front_of(models, t)
        return Snapshot(
            at=now.isoformat(),
            fleet="lab-a",
            daemon=Daemon(True, 4242, "0.1.0", 93_000.0 + t),
            models=models,
            load=self._fleet_load(models),
            health=Health(errors=2, restarts=1, recoveries=1, adopted=3) if models else Health(),
            gpus=gpus,
            gpus_reason=None if self.gpus else "no GPU: the NVIDIA driver's library is not there",
            host=host,
            gateway=gateway,
            alerts=self._alerts() if models and self.alerts else (),
            events=self._events() if models else (),
        )

    def _fleet_load(self, models: tuple[Model, ...]) -> Load:
        loads = [m.load for m in models if m.load.requests_per_s is not None]
        if not loads:
            return Load()
        latency = Latency(
            60.0,
            ttft_s=quantiles(0.148, 288 * len(loads)),
            itl_s=quantiles(0.0142, 21_000 * len(loads)),
            e2e_s=quantiles(2.61, 288 * len(loads)),
        )
        return replace(
            total(models), requests_per_s=sum(x.requests_per_s or 0 for x in loads), latency=latency
        )

    def _state(self, i: int) -> str:
        if self.models <= 4:
            return ("ready", "ready", "starting", self.fourth)[i]
        return "failed" if i % 17 == 5 else "starting" if i % 23 == 9 else "ready"

    def _model(self, i: int, t: int, rng: random.Random) -> Model:
        kind = i % 4
        name, source, gpus, weights, speed, ttft, slo = MODELS[kind]
        state = self._state(i)
        name = name if self.models <= 4 else f"{name}-{i // 4 + 1:02d}"
        ready = state == "ready"
        load = self._load(kind, i, t, rng, speed, ttft) if ready else Load()
        total = 141.0 * gpus
        other, kv = 6.0 * gpus, total * 0.9 - weights - 6.0 * gpus
        usage = load.kv_cache_usage
        memory = Memory(
            "gpu",
            int(total * GIB),
            int((weights + other + kv) * GIB) if ready else None,
            int(weights * GIB) if ready else None,
            int(kv * (usage or 0) * GIB) if ready else None,
            int(kv * (1 - (usage or 0)) * GIB) if ready else None,
            int(other * GIB) if ready else None,
        )
        two = self.models <= 4 and kind == 1
        workers = self._workers(name, kind, state, load, t, two)
        started = state != "stopped"
        return Model(
            name=name,
            source=source,
            revision=3,
            state=state,
            wanted=(2 if two else 1) if started else 0,
            ready=sum(w.state == "ready" for w in workers),
            engine_environment="cu129 (vLLM 0.11.2)",
            command=(
                "vllm", "serve", source, "--served-model-name", name, "--host", "127.0.0.1",
                "--port", str(8100 + i), "--max-num-seqs", "256",
                "--max-num-batched-tokens", "8192", "--gpu-memory-utilization", "0.9",
                "--tensor-parallel-size", str(gpus),
            ),
            engine=Engine(
                version="0.11.2",
                architecture="LlamaForCausalLM",
                dtype="torch.bfloat16",
                quantization="fp8" if kind == 1 else None,
                max_model_len=32768,
                max_num_seqs=256,
                max_num_batched_tokens=8192,
                tensor_parallel_size=gpus,
                pipeline_parallel_size=1,
                block_size=16,
                kv_cache_tokens=412_160,
                prefix_caching=True,
                chunked_prefill=True,
                speculative="eagle3" if kind == 0 else None,
                gpu_memory_utilization=0.9,
            )
            if started
            else Engine(),
            memory=memory,
            load=load,
            slo=Slo(slo, 0.05),
            scale=Scale(0 if kind > 1 else 1, (2, 4, 2, 1)[kind], 64.0 if kind == 1 else None),
            autoscale=Autoscale(cold_start_s=(141.0, 94.2, 71.5, None)[kind]),
            arrivals=replace(ARRIVALS[kind], oldest_waiting_s=0.4 + (load.waiting or 0) / 20)
            if ready
            else Arrivals(),
            batching=BATCHING[kind] if ready else IDLE,
            options={"max_num_seqs": 256, "max_model_len": 32768, "gpu_memory_utilization": 0.9},
            workers=workers,
        )  # fmt: skip

    def _load(
        self, kind: int, i: int, t: int, rng: random.Random, speed: float, ttft: float
    ) -> Load:
        def noise(size: float) -> float:
            return (rng.random() - 0.5) * size

        running = round(wave(t, 60, 70, 236, i) + noise(16))
        waiting = max(0, round(wave(t, 47, -22, 44, i * 2) + noise(12)))
        slow = 1 + 0.25 * wave(t, 53, 0, 1, i) ** 3
        steps = [
            round(
                900 * math.exp(-((j - 6.2 - 1.2 * math.sin(t / 30)) ** 2) / 5) + rng.random() * 40
            )
            for j in range(14)
        ]
        return Load(
            running=running,
            waiting=waiting,
            kv_cache_usage=min(0.99, max(0.05, wave(t, 80, 0.35, 0.93, i) + noise(0.02))),
            generation_tokens_per_s=speed * (0.8 + 0.18 * math.sin(t / 55 * math.tau + i))
            + rng.random() * 120,
            prompt_tokens_per_s=speed * 3 * (0.6 + 0.5 * math.sin(t / 21 * math.tau + i) ** 2)
            + rng.random() * 400,
            requests_per_s=wave(t, 37, 3.2, 6.4, i) + noise(0.6),
            prefix_cache_hit_rate=wave(t, 90, 0.41, 0.66, i),
            preemptions_per_s=0.053 if kind == 1 else 0.0,
            aborts_per_s=0.0,
            batch_fill=running / 256,
            latency=Latency(
                60.0,
                ttft_s=quantiles(ttft * slow, 288, 1 + noise(0.06)),
                itl_s=quantiles(0.0114 * (1.6 if kind == 1 else 1), 21_000),
                tpot_s=quantiles(0.0121 * (1.6 if kind == 1 else 1), 288),
                e2e_s=quantiles(2.44 * slow, 288),
                queue_s=quantiles(0.0182 * (1 + waiting / 8), 288),
                prefill_s=quantiles(0.094 * slow, 288),
                decode_s=quantiles(2.21, 288),
            ),
            prompt_length=Quantiles(812.0, 2410.0, 6120.0, 288),
            output_length=Quantiles(244.0, 618.0, 1020.0, 288),
            step_tokens=tuple(zip(STEP_BOUNDS, steps, strict=False)),
            finish_reasons={"stop": 241.0, "length": 44.0, "abort": 3.0},
            waiting_for={"capacity": max(0, waiting - 2), "deferred": min(waiting, 2)},
            rejected_per_s=0.0,
            tokens_per_step=sum(b * n for b, n in zip(STEP_BOUNDS, steps, strict=False))
            / sum(steps),
            prompt_lengths=PROMPTS,
            output_lengths=OUTPUTS,
        )

    def _workers(
        self, name: str, kind: int, state: str, load: Load, t: int, two: bool
    ) -> tuple[Worker, ...]:
        if state == "stopped":
            return ()
        gpus = ((0, 1), (2,), (3,), (4,))[kind]
        base = Worker(f"{name}-1", state, pid=51_000 + kind, gpus=gpus, node="lab-a-1")
        if state == "failed":
            return (replace(base, pid=None, failure=OUT_OF_MEMORY, restarts=2),)
        if state == "starting":
            done = ((t * 1.7) % 100) / 100
            return (
                replace(
                    base, stage="weights", progress=done, elapsed_s=done * 94, expected_s=94.0,
                    url="http://127.0.0.1:8103", cpu=3.1, rss_bytes=int(18.2 * GIB),
                ),
            )  # fmt: skip
        one = replace(
            base,
            url=f"http://127.0.0.1:{8101 + kind}",
            started_at="2026-11-17T08:12:00+00:00",
            elapsed_s=273_000.0 - kind * 3000 + t,
            stale_s=0.4,
            rss_bytes=int((9.4 + kind) * GIB),
            cpu=2.4 - kind * 0.3,
            restarts=0 if kind else 1,
            running=load.running,
            waiting=load.waiting,
            kv_cache_usage=load.kv_cache_usage,
            generation_tokens_per_s=load.generation_tokens_per_s,
            prompt_tokens_per_s=load.prompt_tokens_per_s,
            requests_per_s=load.requests_per_s,
            prefix_cache_hit_rate=load.prefix_cache_hit_rate,
            preemptions_per_s=load.preemptions_per_s,
            aborts_per_s=load.aborts_per_s,
            batch_fill=load.batch_fill,
            latency=load.latency,
        )
        if not two:
            return (one,)
        second = Worker(
            f"{name}-2", "starting", stage="compile", progress=0.62, elapsed_s=58.0,
            expected_s=94.0, pid=51_009, gpus=(5,), node="lab-a-1", cpu=6.2,
            rss_bytes=int(7.7 * GIB),
        )  # fmt: skip
        return (one, second)

    def _gpu(self, i: int, t: int, rng: random.Random) -> Gpu:
        busy = self.models and (i in (0, 1, 2, 3, 5) or self.models > 4)
        use = min(1.0, wave(t, 23, 0.74, 0.98, i) + (rng.random() - 0.5) * 0.06) if busy else 0.0
        if 0 < self.models <= 4 and i in (3, 5):
            use = 0.04
        hot = i == 2 and self.alerts and busy
        return Gpu(
            node=f"lab-a-{i // 8 + 1}",
            index=i if self.gpus <= 8 else i % 8,
            uuid=f"GPU-{i:08x}",
            name="NVIDIA H200",
            utilization=use,
            memory_used_bytes=int((127.3 - (i % 8) * 2.2) * GIB) if busy else int(0.6 * GIB),
            memory_total_bytes=141 * GIB,
            temperature_c=84.0 if hot else 52 + use * 22 + (i % 3) * 2,
            power_w=120 + use * 540,
            power_limit_w=700.0,
        )

    def _alerts(self) -> tuple[Alert, ...]:
        found = [
            Alert("warn", "qwen3-32b", "TTFT p95 412 ms > 350 ms"),
            Alert("warn", "GPU 2", "84 °C"),
        ]
        if self.fourth == "failed":
            found.append(Alert("crit", "phi-4", "failed: out-of-memory"))
        return tuple(found)

    def _events(self) -> tuple[Event, ...]:
        def event(seq: int, at: str, level: str, subject: str, text: str) -> Event:
            return Event(seq, f"2026-11-20T{at}+00:00", level, subject, text)

        return (
            event(9, "12:04:31", "warn", "qwen3-32b", "TTFT p95 412 ms is over its 350 ms target"),
            event(8, "12:03:58", "info", "qwen3-32b-2", "starting on GPU 5: wanted 2, ready 1"),
            event(7, "12:03:40", "info", "mistral-24b-1", "loading weights, 31 of 48 GiB"),
            event(6, "12:01:14", "ok", "llama-70b-1", "ready in 94.2 s, KV cache 412,160 tokens"),
            event(5, "11:58:40", "crit", "phi-4-1", "out-of-memory: CUDA out of memory"),
        )  # fmt: skip


def played(fleet: LabFleet, seconds: int = 300, until: int = 140) -> tuple[Snapshot, Trends]:
    """The snapshot at `until` and the trends of the seconds before it."""
    trends = Trends()
    for t in range(until - seconds, until + 1):
        trends.append(fleet.at(t))
    return fleet.at(until), trends


@cache
def _remembered(fleet: LabFleet, seconds: int) -> Trends:
    return played(fleet, seconds)[1]


LOG = "\n".join(
    f"INFO 11-20 12:04:{i % 60:02d} [loggers.py:127] Engine 000: Avg generation throughput: "
    f"{1100 + i}.0 tokens/s, Running: {150 + i} reqs, GPU KV cache usage: {40 + i % 20}.1%"
    if i % 9
    else f"WARNING 11-20 12:04:{i % 60:02d} [scheduler.py:1204] Sequence group {i} is preempted"
    for i in range(120)
)


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of the scripted log."""

    offset: int
    text: str


class ScriptedClient:
    """A fake `FleetClient` that plays what a test pushes; nothing in it waits for time."""

    def __init__(self, fleet: LabFleet | None = None, history: int = 0) -> None:
        self.fleet = fleet or LabFleet()
        self.history = history
        """Seconds that `series` remembers before the first snapshot."""
        self.log_text = LOG
        self.fleet_file = HOLDS
        self.looks_refused = False
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.questions: list[Question] = []
        self.commanded = Flag()
        self.asked: list[str] = []
        """The moments that were looked up."""
        self.kept_s = 600
        """Seconds of the past that can be looked up."""
        self.held: Flag | None = None
        """Look-ups wait for it, where there is one."""
        self.refuse: Exception | None = None
        self.closed = False
        self._snapshots: SimpleQueue[Snapshot | Exception | None] = SimpleQueue()

    def push(self, *snapshots: Snapshot | Exception | None) -> None:
        """What the stream gives next: a snapshot, an error to raise, or `None` for its end."""
        for snapshot in snapshots:
            self._snapshots.put(snapshot)

    def snapshots(self) -> Iterator[Snapshot]:
        """What was pushed, in order."""
        while True:
            item = self._snapshots.get()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def snapshot_at(self, moment: str) -> Snapshot:
        """The scripted fleet at a time in ISO 8601, or so many seconds ago: "-40"."""
        self.asked.append(moment)
        if self.held is not None:
            self.held.wait(10.0)
        try:
            t = 140 + (int(moment) if moment.startswith("-") else _second_of(moment))
        except ValueError:
            raise InvalidInput(f'not a time: "{moment}"') from None
        if t < 140 - self.kept_s:
            raise NotFound(f"nothing is recorded of {moment}")
        return stored(self.fleet.at(t))

    def series(
        self,
        subjects: Sequence[str],
        metrics: Sequence[str],
        seconds: float,
        step: float,
        until: float | None = None,
    ) -> dict[str, dict[str, list[float | None]]]:
        """What the scripted fleet did until a moment, or until its moment 140."""
        if until is None:
            trends = _remembered(self.fleet, min(int(seconds), self.history))
        else:
            t = 140 + round(until - NOON.timestamp())
            trends = played(self.fleet, min(int(seconds), t), t)[1]
        return {s: {m: trends.tail(s, m, int(seconds)) for m in metrics} for s in subjects}

    def events(self, after: int = 0) -> list[Event]:
        """The scripted events, oldest first."""
        return [e for e in reversed(self.fleet.at(140).events) if e.seq > after]

    def audit(self, after: int = 0) -> list[AuditEntry]:
        """The scripted commands, oldest first."""
        return [entry for entry in AUDIT if entry.seq > after]

    def ask(self, question: Question) -> Answer:
        """A scripted day."""
        self.questions.append(question)
        return answered(question)

    def log(self, worker: str, offset: int | None = None, lines: int = 200) -> LogChunk:
        """The scripted log, as if it were a file."""
        if worker.startswith("nobody"):
            raise NotFound(f'no worker "{worker}"')
        data = self.log_text.encode()
        if offset is None:
            tail = self.log_text.splitlines()[-lines:]
            return LogChunk(len(data), "\n".join(tail) + "\n")
        return LogChunk(len(data), data[offset:].decode())

    def command(self, verb: str, **args: Any) -> dict[str, Any]:
        """Note the command; refuse it when told to. What changes nothing is answered."""
        if verb in LOOKS and not self.looks_refused:
            return looked(verb, args, self.fleet_file)
        self.commands.append((verb, args))
        self.commanded.set()
        if self.refuse is not None:
            raise self.refuse
        return {"accepted": True}

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self.push(None)


def _second_of(moment: str) -> int:
    return round((datetime.fromisoformat(moment) - NOON).total_seconds())


class Connection(ScriptedClient):
    """One more connection to the daemon behind a `ScriptedClient`; closing it ends no stream."""

    def __init__(self, daemon: ScriptedClient) -> None:
        self.__dict__ = daemon.__dict__

    def close(self) -> None:
        """It has no stream."""


class GoneClient(ScriptedClient):
    """A fake client of a daemon that is not there."""

    def snapshots(self) -> Iterator[Snapshot]:
        """Nothing answers."""
        raise NoDaemon("no daemon answers on control.sock; `vllm-console up -d` starts one")


class StandingClock:
    """A fake monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
