"""What a stored moment keeps of a scripted one: the picture `control.past` can rebuild, no more."""

from __future__ import annotations

from dataclasses import fields, replace

from vllm_console.snapshot import (
    CacheUse,
    Daemon,
    Engine,
    Event,
    Gpu,
    Load,
    Memory,
    Model,
    Snapshot,
    Worker,
)

_OF_OPTIONS = ("max_num_seqs", "max_model_len", "gpu_memory_utilization")
"""Engine facts that the scripted models' options tell."""


def stored(snapshot: Snapshot) -> Snapshot:
    """The snapshot without what no sample, event or revision tells."""
    return Snapshot(
        at=snapshot.at,
        fleet=snapshot.fleet,
        daemon=Daemon(True, version="0.1.0", uptime_s=snapshot.daemon.uptime_s),
        models=tuple(_model(model) for model in snapshot.models),
        load=snapshot.load,
        gpus=tuple(_gpu(gpu) for gpu in snapshot.gpus),
        gpus_reason=None if snapshot.gpus else "no GPU was recorded at that time",
        alerts=tuple(alert for alert in snapshot.alerts if alert.subject != "GPU 2"),
        events=tuple(
            Event(e.seq, e.at, e.level, e.subject, e.text)
            for e in snapshot.events
            if e.at <= snapshot.at
        ),
    )


def _model(model: Model) -> Model:
    engine = Engine(**{name: getattr(model.engine, name) for name in _OF_OPTIONS})
    return Model(
        name=model.name,
        source=model.source,
        revision=model.revision,
        state=model.state,
        wanted=len(model.workers),
        ready=model.ready,
        aliases=model.aliases,
        autostart=model.autostart,
        pinned=model.pinned,
        engine=engine,
        memory=Memory(device="gpu"),
        load=_load(model.load) if model.ready else Load(),
        slo=model.slo,
        scale=model.scale,
        options=model.options,
        workers=tuple(_worker(worker) for worker in model.workers),
    )


def _load(load: Load) -> Load:
    return replace(load, cache=CacheUse())


def _worker(worker: Worker) -> Worker:
    shared = {f.name for f in fields(Load)} & {f.name for f in fields(Worker)}
    return Worker(
        id=worker.id,
        state=worker.state,
        elapsed_s=worker.elapsed_s,
        gpus=worker.gpus,
        failure=worker.failure,
        stale_s=worker.stale_s,
        **{name: getattr(worker, name) for name in shared},
    )


def _gpu(gpu: Gpu) -> Gpu:
    return replace(gpu, processes=(), throttle=None, fault=None)
