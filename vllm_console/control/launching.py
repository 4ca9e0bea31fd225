"""From a model of the fleet to what a worker launches: engine, source, port, GPUs, environment."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_console.engines.environment import EngineEnvironment, resolve
from vllm_console.engines.flags import flag_schema
from vllm_console.engines.tiny import tiny_model, tiny_source
from vllm_console.errors import InvalidInput
from vllm_console.fleet.checkpoint import read_checkpoint
from vllm_console.fleet.command import serve_command
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.options import FlagSchema, check_options
from vllm_console.fleet.preflight import Kind, preflight
from vllm_console.fleet.secrets import resolve_env
from vllm_console.snapshot import Failure, Gpu
from vllm_console.workers.launch import LaunchFailed, LaunchSpec, iso
from vllm_console.workers.sockets import free_port
from vllm_console.workers.states import Cause

_KILL_AFTER_DRAIN_S = 10.0
"""Seconds after the drain timeout at which a worker that still lives is killed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything known about a launch before it happens."""

    spec: LaunchSpec
    environ: dict[str, str]
    """The worker's whole environment; may hold secrets, is never written down."""
    engine: EngineEnvironment
    source: str
    """What `vllm serve` is given as the model: a hub id or a local directory."""


async def prepare(
    worker_id: str,
    model: ModelConfig,
    revision: int,
    *,
    base: Path,
    gpus: tuple[Gpu, ...],
    taken: Callable[[], Mapping[int, int]],
    ports_in_use: Callable[[], Collection[int]],
    environ: Mapping[str, str] = os.environ,
) -> Prepared:
    """Decide port, GPUs and environment of one launch.

    `base` is where relative secret files lie, `taken` how many workers use each GPU; that and the
    ports are asked for last and nothing waits after it, so that two launches that are prepared side
    by side never choose the same. Raises `ConsoleError` with the one line that says why this model
    cannot be started.
    """
    engine = await asyncio.to_thread(resolve, model.engine)
    schema = await asyncio.to_thread(flag_schema, engine)
    _refuse_bad_options(model, schema)
    source = await asyncio.to_thread(_source, model, engine, base)
    await asyncio.to_thread(refuse_certain_failure, model, source, environ)
    indexes = choose_gpus(model, engine, gpus, taken())
    port = free_port(avoid=ports_in_use())
    argv = serve_command(
        *(str(engine.program), model),
        source=source,
        port=port,
        schema=schema,
        device=engine.device,
    )
    spec = LaunchSpec(
        worker_id=worker_id,
        model=model.name,
        revision=revision,
        argv=argv,
        port=port,
        served_names=(model.name, *model.aliases),
        gpus=indexes,
        stop_grace_s=model.drain_timeout_s + _KILL_AFTER_DRAIN_S,
        start_timeout_s=model.start_timeout_s,
        sleep_level=model.sleep_level or 0,
    )
    return Prepared(spec, _environment(model, engine, base, indexes, gpus, environ), engine, source)


def choose_gpus(
    model: ModelConfig,
    engine: EngineEnvironment,
    gpus: tuple[Gpu, ...],
    taken: Mapping[int, int],
) -> tuple[int, ...]:
    """The GPUs of one worker: the named ones, else free ones with the lowest indexes.

    `taken` is how many use each GPU; one that is 0 there has a sleeper, and is chosen last.

    "auto" is what the engine's parallelism needs, or none for a CPU engine or a machine without
    GPUs. Raises `InvalidInput` when they are not there, `LaunchFailed` when they are not free.
    """
    known = {gpu.index for gpu in gpus}
    if model.devices:
        missing = [str(i) for i in model.devices if i not in known]
        if missing:
            raise InvalidInput(
                f"models.{model.name}.devices: no GPU {', '.join(missing)} here; "
                f"there are {len(known)}"
            )
        return tuple(model.devices)
    if model.gpus == "auto":
        count = 0 if engine.device == "cpu" or not known else _parallelism(model)
    else:
        count = model.gpus
    free = sorted((i for i in known if not taken.get(i)), key=lambda i: (i in taken, i))
    needs = f"models.{model.name} needs {_count(count, 'GPU')}"
    if count > len(known):
        raise InvalidInput(f"{needs}: there are {len(known)}; ask for fewer, or for devices = […]")
    if count > len(free):
        line = f"{needs}: {len(free)} of {len(known)} free"
        remedy = "unload a model, or share cards with devices = […]; it starts once there is room"
        raise LaunchFailed(Failure(Cause.NO_FREE_GPU, line, remedy, iso(time.time())))
    return tuple(sorted(free[:count]))


def weights_bytes(source: str) -> int | None:
    """Bytes of the weight files of a local model directory; `None` for a hub id."""
    directory = Path(source)
    if not directory.is_dir():
        return None
    sizes = [file.stat().st_size for file in directory.glob("*.safetensors")]
    return sum(sizes) if sizes else None


def _parallelism(model: ModelConfig) -> int:
    product = 1
    for option in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        size = model.options.get(option)
        product *= size if isinstance(size, int) else 1
    return product


def _refuse_bad_options(model: ModelConfig, schema: FlagSchema) -> None:
    problems = check_options(model.options, schema)
    if problems:
        raise InvalidInput(f"models.{model.name}.{problems[0].key}: {problems[0].text}")


_CAUSES: dict[Kind, Cause] = {
    "option": Cause.BAD_OPTION,
    "model": Cause.MODEL_NOT_FOUND,
    "weights": Cause.WEIGHTS_BROKEN,
    "kv": Cause.KV_TOO_SMALL,
}


def refuse_certain_failure(model: ModelConfig, source: str, environ: Mapping[str, str]) -> None:
    """Raise `LaunchFailed` for what vLLM would refuse itself, only 20 seconds later."""
    env = {**environ, **{key: value for key, value in model.env.items() if isinstance(value, str)}}
    checkpoint = read_checkpoint(source, model.options, env)
    refusals = preflight(model.options, checkpoint, env={**environ, **model.env})
    if refusals:
        first, more = refusals[0], len(refusals) - 1
        remedy = first.remedy
        if more:
            remedy += f" (and {more} more: `vllm-console validate` lists them)"
        raise LaunchFailed(Failure(_CAUSES[first.kind], first.line, remedy, iso(time.time())))


def _source(model: ModelConfig, engine: EngineEnvironment, base: Path) -> str:
    size = tiny_source(model.source)
    if size is not None:
        return str(tiny_model(size, engine))
    local = (base / Path(model.source).expanduser()).resolve()
    if local.is_dir():
        return str(local)
    if model.source.startswith((".", "/", "~")):
        raise InvalidInput(f"models.{model.name}.source: no directory {local}")
    return model.source


def _environment(
    model: ModelConfig,
    engine: EngineEnvironment,
    base: Path,
    indexes: tuple[int, ...],
    gpus: tuple[Gpu, ...],
    environ: Mapping[str, str],
) -> dict[str, str]:
    env = {k: v for k, v in environ.items() if not k.startswith("VLLM_CONSOLE_")}
    env["PATH"] = os.pathsep.join((str(engine.program.parent), env.get("PATH", os.defpath)))
    env["PYTHONUNBUFFERED"] = "1"  # stages are read from the log as they happen
    if model.sleep_level is not None:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # /sleep and /wake_up are there with it alone
    if indexes:
        uuids = {gpu.index: gpu.uuid for gpu in gpus}
        env["CUDA_VISIBLE_DEVICES"] = ",".join(uuids[i] for i in indexes)
    elif gpus and engine.device != "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    env.update(resolve_env(model.env, base, environ))
    return env


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
