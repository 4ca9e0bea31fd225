"""Limits, attainment and efficiency of models, by what their samples and GPUs say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import pytest

from vllm_console.control.insights import Insights, busy, efficiency, gpus_of, limit, lora
from vllm_console.control.served import Actor, ServedModel
from vllm_console.fleet.model import ModelConfig
from vllm_console.history.memory import MemoryHistory
from vllm_console.snapshot import (
    Efficiency,
    Engine,
    Gpu,
    Host,
    Limits,
    Load,
    LogErrors,
    Lora,
    Memory,
    Model,
    Slo,
    Worker,
)
from vllm_console.telemetry.sample import Histogram, Sample

HOST = Host("here", cores=8)
GPUS = tuple(
    Gpu("here", i, f"GPU-{i}", "H200", utilization=0.5 + i * 0.1, memory_used_bytes=60,
        memory_total_bytes=100, power_w=300.0)
    for i in range(3)
)  # fmt: skip


@dataclass
class FakeActor:
    """A fake worker: how it is seen, and its engine."""

    view: Worker
    engine: Engine


def served(state: str = "ready", gpus: tuple[int, ...] = (0,), **options: int) -> ServedModel:
    """A model "m" with one worker."""
    config = ModelConfig(name="m", source="a/b", options=options)
    model = ServedModel(config, 1, lambda model, worker_id: cast("Actor", None))
    engine = Engine(max_num_seqs=4, max_num_batched_tokens=1000)
    actor = FakeActor(Worker("m-1", state, gpus=gpus), engine)
    model.workers["m-1"] = cast("Actor", actor)
    return model


def sample(at: float, running: float, waiting: float, *, steps: int = 0, kv: float = 0.1) -> Sample:
    """One sample of "m"; each step had 950 tokens."""
    return Sample(
        at,
        counters={"preemptions": 0.0},
        gauges={"running": running, "waiting": waiting, "kv_cache_usage": kv},
        histograms={
            "step_tokens": Histogram((1000.0,), (float(steps), float(steps)), 950.0 * steps),
            "ttft_s": Histogram((0.5,), (3.0 * at, 4.0 * at), 1.0),
        },
    )


def played(samples: Iterable[Sample], model: ServedModel, gpus: tuple[Gpu, ...] = ()) -> Limits:
    """The limits after these samples, one tick a sample."""
    history = MemoryHistory()
    insights = Insights(history)
    now = 0.0
    for one in samples:
        history.record("model/m", one)
        now = one.at
        insights.tick(now, {"m": model}, gpus, HOST)
    (told,) = insights.complete(now, [picture()], gpus, HOST, None, {})
    return told.limits


def picture(**changed: object) -> Model:
    """The model as it is drawn."""
    worker = Worker("m-1", "ready", gpus=(0,))
    base = Model("m", "a/b", 1, "ready", 1, 1, workers=(worker,))
    return replace(base, **changed)  # type: ignore[arg-type]


def test_each_second_is_judged_by_its_sample() -> None:
    told = played(
        [sample(1, 0, 0), sample(2, 4, 3), sample(3, 4, 0), sample(4, 4, 1, kv=0.97)], served()
    )
    assert told.shares == {"idle": 0.25, "sequence-slots": 0.25, "none": 0.25, "kv-memory": 0.25}
    assert (told.now, told.seen_s) == ("kv-memory", 4.0)


def test_full_steps_bind_until_the_next_step_is_counted() -> None:
    told = played(
        [sample(1, 2, 0), sample(2, 2, 0, steps=5), sample(3, 2, 0, steps=5), sample(4, 0, 0)],
        served(),
    )
    assert told.shares == {"token-budget": 0.5, "none": 0.25, "idle": 0.25}


def test_a_hot_gpu_holds_back_only_the_model_that_uses_it() -> None:
    hot = (replace(GPUS[0], throttle="thermal (hardware)"), GPUS[1])
    one = [sample(1, 2, 0)]
    assert played(one, served(gpus=(0,)), hot).now == "power"
    assert played(one, served(gpus=(1,)), hot).now == "none"
    synced = (replace(GPUS[0], throttle="sync boost"),)
    assert played(one, served(gpus=(0,)), synced).now == "none"


def test_a_model_without_a_serving_worker_or_a_fresh_sample_has_no_second() -> None:
    assert played([sample(1, 2, 0)], served("starting")).shares is None
    history = MemoryHistory()
    history.record("model/m", sample(1, 2, 0))
    insights = Insights(history)
    insights.tick(60.0, {"m": served()}, (), HOST)
    (told,) = insights.complete(60.0, [picture()], (), HOST, None, {})
    assert told.limits == Limits()


def test_attainment_is_of_the_targets_of_fleet_toml() -> None:
    history = MemoryHistory()
    for at in (1.0, 2.0, 3.0):
        history.record("model/m", sample(at, 1, 0))
    insights = Insights(history)
    model = picture(slo=Slo(ttft_p95_s=0.5), load=Load(running=1))
    (told,) = insights.complete(3.0, [model], (), HOST, None, {})
    assert told.attainment.ttft == told.attainment.overall == pytest.approx(0.75)
    (aimless,) = insights.complete(3.0, [picture(load=Load(running=1))], (), HOST, None, {})
    assert aimless.attainment.overall is None


def test_efficiency_is_of_the_gpus_that_serve() -> None:
    load = Load(
        generation_tokens_per_s=600.0, batch_fill=0.5, prefix_cache_hit_rate=0.25,
        finish_reasons={"stop": 9.0, "abort": 1.0},
    )  # fmt: skip
    two = (Worker("m-1", "ready", gpus=(0, 1)), Worker("m-2", "starting", gpus=(2,)))
    told = efficiency(picture(workers=two, load=load), GPUS, HOST, 3.6)
    assert (told.busy, told.overall) == pytest.approx((0.55, 0.55 * 0.5 * 0.9))
    assert (told.memory, told.batch_fill, told.prefix_hit, told.served) == (0.6, 0.5, 0.25, 0.9)
    assert told.tokens_per_joule == 1.0
    assert told.cost_per_million == pytest.approx(2e-3 / 600 * 1e6)
    stopped = picture(workers=(), load=load)
    assert efficiency(stopped, GPUS, HOST, 3.6) == Efficiency()


def test_without_gpus_the_hosts_cores_and_memory_count() -> None:
    worker = Worker("m-1", "ready", cpu=2.0)
    model = picture(workers=(worker,), memory=Memory("host", 100, 25), load=Load(batch_fill=0.5))
    told = efficiency(model, (), HOST, 3.6)
    assert (told.busy, told.memory, told.overall) == (0.25, 0.25, 0.125)
    assert told.tokens_per_joule is None
    assert told.cost_per_million is None
    assert busy([worker], (), None) is None


def test_gpus_that_do_not_tell_are_unknown_and_not_idle() -> None:
    silent = (Gpu("here", 0, "GPU-0", "H200"),)
    workers = [Worker("m-1", "ready", gpus=(0,), cpu=2.0)]
    assert gpus_of(workers, silent) == list(silent)
    assert busy(workers, silent, HOST) is None
    told = efficiency(picture(load=Load(batch_fill=0.5)), silent, HOST, None)
    assert (told.busy, told.memory, told.overall) == (None, None, None)


def test_a_limit_is_the_engines_own_else_what_fleet_toml_asks() -> None:
    assert limit(Engine(max_num_seqs=4), {"max_num_seqs": 8}, "max_num_seqs") == 4
    assert limit(Engine(), {"max_num_seqs": 8}, "max_num_seqs") == 8
    assert limit(Engine(), {"max_num_seqs": "auto"}, "max_num_seqs") is None


def test_adapters_of_all_workers_are_told_once() -> None:
    one = {"max_lora": "4", "running_lora_adapters": "b, a", "waiting_lora_adapters": ""}
    two = {"max_lora": "4", "running_lora_adapters": "a", "waiting_lora_adapters": "c"}
    assert lora([one, two, {}]) == Lora(4, ("a", "b"), ("c",))
    assert lora([{}]) is None
    assert lora([{"max_lora": "0", "running_lora_adapters": ""}]) == Lora(None)


def test_what_a_log_says_stands_with_its_worker() -> None:
    insights = Insights(MemoryHistory())
    logs = {"m-1": LogErrors(errors=3)}
    (told,) = insights.complete(0.0, [picture()], (), HOST, None, logs)
    assert told.workers[0].log_errors == LogErrors(errors=3)
    (silent,) = insights.complete(0.0, [picture()], (), HOST, None, {})
    assert silent.workers[0].log_errors is None
