"""Says of each model what limits it, whether it holds its targets, and what its hardware gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_console.control.served import ServedModel
from vllm_console.history.base import History
from vllm_console.insight.bottleneck import Binding, Second
from vllm_console.insight.efficiency import cost_per_million, overall, served, tokens_per_joule
from vllm_console.insight.slo import WINDOW_S, attainment
from vllm_console.snapshot import (
    Attainment,
    Efficiency,
    Engine,
    Gpu,
    Host,
    Limits,
    LogErrors,
    Lora,
    Model,
    Slo,
    Worker,
)
from vllm_console.telemetry.sample import Sample
from vllm_console.telemetry.window import Window
from vllm_console.workers.states import SERVING

JUDGED_EVERY_S = 5.0
"""How old a model's attainment may be: it is of minutes."""
LATE_S = 6.0
"""A model whose newest sample is older has none for this second; an idle one has one in 5 s."""
_SLOWED = ("thermal", "power")
"""Beginnings of the reasons for which a GPU counts as held back by heat or power."""


@dataclass(slots=True)
class _Seen:
    """What is remembered of one model."""

    binding: Binding = field(default_factory=Binding)
    sample: Sample | None = None
    second: Second | None = None
    judged_at: float = float("-inf")
    slo: Slo | None = None
    attainment: Attainment = field(default_factory=Attainment)


class Insights:
    """Fed once a second, asked for each picture. Times are of the daemon's monotonic clock."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._seen: dict[str, _Seen] = {}

    def tick(
        self, now: float, models: Mapping[str, ServedModel], gpus: Sequence[Gpu], host: Host | None
    ) -> None:
        """Take in one second of every model."""
        for name in self._seen.keys() - models.keys():
            del self._seen[name]
        for name, model in models.items():
            seen = self._seen.setdefault(name, _Seen())
            sample = self._history.latest(f"model/{name}")
            serving = [a for a in model.workers.values() if a.view.state in SERVING]
            if sample is None or not serving or now - sample.at > LATE_S:
                seen.binding.add(now, None)
                continue
            options = model.config.options
            slots = limit(serving[0].engine, options, "max_num_seqs")
            workers = [actor.view for actor in serving]
            seen.second = second(
                sample,
                seen.sample,
                seen.second,
                slots=None if slots is None else slots * len(serving),
                budget=limit(serving[0].engine, options, "max_num_batched_tokens"),
                busy=busy(workers, gpus, host),
                throttled=any(_slowed(gpu) for gpu in gpus_of(workers, gpus)),
            )
            seen.sample = sample
            seen.binding.add(now, seen.second)

    def complete(
        self,
        now: float,
        models: Iterable[Model],
        gpus: Sequence[Gpu],
        host: Host | None,
        gpu_hour_cost: float | None,
        logs: Mapping[str, LogErrors],
    ) -> tuple[Model, ...]:
        """The models with their limits, their attainment, their efficiency and their logs."""
        return tuple(
            replace(
                model,
                limits=self._limits(model.name),
                attainment=self._attained(model, now),
                efficiency=efficiency(model, gpus, host, gpu_hour_cost),
                workers=tuple(replace(w, log_errors=logs.get(w.id)) for w in model.workers),
            )
            for model in models
        )

    def _limits(self, name: str) -> Limits:
        seen = self._seen.get(name)
        return Limits() if seen is None else seen.binding.limits()

    def _attained(self, model: Model, now: float) -> Attainment:
        seen = self._seen.setdefault(model.name, _Seen())
        if now - seen.judged_at >= JUDGED_EVERY_S or seen.slo != model.slo:
            seen.judged_at, seen.slo = now, model.slo
            window = None
            if model.load.running is not None and model.slo != Slo():
                window = self._history.window(f"model/{model.name}", WINDOW_S)
            seen.attainment = attainment(window, model.slo)
        return seen.attainment


def second(
    sample: Sample,
    before: Sample | None,
    last: Second | None,
    *,
    slots: int | None,
    budget: int | None,
    busy: float | None,
    throttled: bool,
) -> Second:
    """What one second looked like, by the newest sample and the one before it.

    Between two scrapes no step is counted: then the steps are those of the `last` second.
    """
    gauges = sample.gauges
    window = None if before is None else Window(before, sample)
    steps = None if window is None else window.mean("step_tokens")
    if steps is None and last is not None and gauges.get("running"):
        steps = last.step_tokens
    fetching = [v for name, v in gauges.items() if name.startswith("kv_fetch:")]
    return Second(
        running=gauges.get("running", 0.0),
        waiting=gauges.get("waiting", 0.0),
        kv_cache_usage=gauges.get("kv_cache_usage"),
        preempted=None if window is None else window.delta("preemptions"),
        slots=slots,
        step_tokens=steps,
        step_budget=budget,
        busy=busy,
        throttled=throttled,
        fetching=sum(fetching) if fetching else None,
    )


def limit(engine: Engine, options: Mapping[str, Any], name: str) -> int | None:
    """A limit as the engine says it runs, else as fleet.toml asks for it."""
    value = getattr(engine, name)
    if value is None:
        value = options.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def gpus_of(workers: Iterable[Worker], gpus: Iterable[Gpu]) -> list[Gpu]:
    """The GPUs that these workers use."""
    indexes = {index for worker in workers for index in worker.gpus}
    return [gpu for gpu in gpus if gpu.index in indexes]


def busy(workers: Sequence[Worker], gpus: Iterable[Gpu], host: Host | None) -> float | None:
    """Mean utilisation 0..1 of their GPUs; without any, the share of the host's cores they use."""
    if any(worker.gpus for worker in workers):
        known = [g.utilization for g in gpus_of(workers, gpus) if g.utilization is not None]
        return sum(known) / len(known) if known else None
    cores = [worker.cpu for worker in workers if worker.cpu is not None]
    return sum(cores) / host.cores if cores and host and host.cores else None


def efficiency(
    model: Model, gpus: Iterable[Gpu], host: Host | None, gpu_hour_cost: float | None
) -> Efficiency:
    """What a model makes of its hardware now; all `None` while none of its workers serves."""
    serving = [worker for worker in model.workers if worker.state in SERVING]
    if not serving:
        return Efficiency()
    mine = gpus_of(serving, gpus)
    watts = [gpu.power_w for gpu in mine if gpu.power_w is not None]
    memory = [
        (gpu.memory_used_bytes, gpu.memory_total_bytes)
        for gpu in mine
        if gpu.memory_used_bytes is not None and gpu.memory_total_bytes
    ]
    used = sum(used for used, _ in memory) / sum(total for _, total in memory) if memory else None
    if not mine and model.memory.used_bytes is not None and model.memory.total_bytes:
        used = model.memory.used_bytes / model.memory.total_bytes
    load = model.load
    share = busy(serving, mine, host)
    good = served(load.finish_reasons)
    tokens = load.generation_tokens_per_s
    return Efficiency(
        busy=share,
        memory=used,
        batch_fill=load.batch_fill,
        prefix_hit=load.prefix_cache_hit_rate,
        served=good,
        tokens_per_joule=tokens_per_joule(tokens, sum(watts) if watts else None),
        cost_per_million=cost_per_million(tokens, len(mine), gpu_hour_cost),
        overall=overall(share, load.batch_fill, good),
    )


def lora(infos: Iterable[Mapping[str, str]]) -> Lora | None:
    """The adapters that the engines of a model tell of in vllm:lora_requests_info."""
    most: int | None = None
    names: dict[str, set[str]] = {"running": set(), "waiting": set()}
    for info in infos:
        if "max_lora" not in info:
            continue
        if info["max_lora"].isdigit():
            most = int(info["max_lora"])
        for kind, found in names.items():
            told = info.get(f"{kind}_lora_adapters", "")
            found.update(name.strip() for name in told.split(",") if name.strip())
    if most is None:
        return None
    return Lora(most or None, tuple(sorted(names["running"])), tuple(sorted(names["waiting"])))


def _slowed(gpu: Gpu) -> bool:
    return gpu.throttle is not None and gpu.throttle.startswith(_SLOWED)
