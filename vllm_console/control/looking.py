"""Answers what one looks at before acting: a configuration, a load to come, the fleet file."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from vllm_console.control.beyond import beyond_the_file
from vllm_console.control.factory import NOT_IN_FILE, WorkerFactory
from vllm_console.control.launching import choose_gpus, refuse_certain_failure, weights_bytes
from vllm_console.control.machine import Machine
from vllm_console.control.rollout import Rollout
from vllm_console.control.served import ServedModel
from vllm_console.engines.environment import EngineEnvironment, resolve
from vllm_console.engines.flags import cached_schema
from vllm_console.engines.tiny import tiny_home, tiny_source
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.command import serve_command
from vllm_console.fleet.load import FleetError
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.fleet.options import check_options
from vllm_console.fleet.origins import origins
from vllm_console.fleet.problems import Problem
from vllm_console.fleet.secrets import Secret
from vllm_console.fleet.written import as_toml
from vllm_console.looks import (
    Configured,
    Cut,
    FileChange,
    FleetFile,
    LoadPlan,
    Setting,
    Trouble,
    Variable,
)
from vllm_console.workers.launch import LaunchFailed
from vllm_console.workers.redaction import redact
from vllm_console.workers.states import ENDED

_UTILIZATION = 0.9
"""vLLM's own default of `gpu_memory_utilization` (vllm/config/cache.py)."""
_LINES_MAX = 5000
_TABLE = re.compile(r"=\s*\{")


def configured(fleet: Fleet, model: ServedModel) -> Configured:
    """What a model is set to and where from; its secrets are named, never told."""
    wanted = fleet.models.get(model.name)
    if wanted is None:
        return Configured(model.name, model.revision, (), (), as_the_file=False)
    settings, environment = [], []
    for key, value, origin in origins(fleet, model.name):
        if value in (None, [], {}):
            continue
        if key.startswith("env."):
            name = key.removeprefix("env.")
            environment.append(Variable(name, _told(name, value), origin.place))
        else:
            text = str(value) if isinstance(value, Secret) else as_toml(value)
            settings.append(Setting(key, text, origin.place, origin.layer))
    return Configured(
        model.name,
        model.revision,
        tuple(settings),
        tuple(environment),
        as_the_file=wanted == model.config,
    )


def _told(name: str, value: object) -> str | None:
    """A variable's value, unless it is a secret or its name or form says that it may be one."""
    if isinstance(value, Secret):
        return None
    pair = f"{name}={value}"
    return str(value) if redact(pair) == pair else None


async def load_plan(
    model: ServedModel,
    factory: WorkerFactory,
    machine: Machine,
    *,
    base: Path,
    expected_s: float | None,
    environ: Mapping[str, str] = os.environ,
) -> LoadPlan:
    """What loading a model would take now; nothing is started, fetched or reserved."""
    config, refused, notes = model.config, list[str](), list[str]()
    alive = sum(worker.state not in ENDED for worker in model.own)
    count = max(0, max(model.wanted, config.workers) - alive)
    if config.attached or config.source == NOT_IN_FILE:
        why = (
            f"it is attached ({config.url}): nothing is started" if config.attached else NOT_IN_FILE
        )
        return LoadPlan(model.name, model.revision, 0, device="cpu", refused=(why,))
    try:
        engine = await asyncio.to_thread(resolve, config.engine)
    except ConsoleError as error:
        return LoadPlan(model.name, model.revision, count, refused=(str(error),))
    source = await asyncio.to_thread(_local, config, base, refused)
    await asyncio.to_thread(_judge_options, config, engine, source, environ, refused, notes)
    indexes: tuple[int, ...] = ()
    try:
        indexes = choose_gpus(config, engine, machine.devices.gpus, factory.gpus_taken(""))
    except ConsoleError as error:
        refused.append(str(error))
    weights = await asyncio.to_thread(weights_bytes, source)
    if weights is None and not source.startswith("/"):
        notes.append("a hub id: the size of its weights is not told beforehand")
    share = config.options.get("gpu_memory_utilization", _UTILIZATION)
    cuts = [
        Cut(
            gpu.index,
            gpu.name,
            gpu.memory_total_bytes,
            gpu.memory_used_bytes,
            _share(gpu.memory_total_bytes, share),
        )
        for gpu in machine.devices.gpus
        if gpu.index in indexes
    ]
    if len(indexes) and count > 1:
        notes.append(f"the GPUs are those of the first of {count} workers")
    host = machine.host
    free = None
    if host and host.memory_total_bytes is not None and host.memory_used_bytes is not None:
        free = host.memory_total_bytes - host.memory_used_bytes
    schema = await asyncio.to_thread(cached_schema, engine)
    return LoadPlan(
        model=model.name,
        revision=model.revision,
        workers=count,
        gpus=tuple(cuts),
        device="gpu" if indexes else "cpu",
        weights_bytes=weights,
        host_free_bytes=free,
        expected_s=expected_s,
        waits_for=tuple(factory.in_the_way(indexes)),
        refused=tuple(refused),
        notes=tuple(notes),
        engine=f"{engine.found}" + (f", vLLM {engine.version}" if engine.version else ""),
        command=serve_command(
            *(str(engine.program), config),
            source=source,
            port="PORT",
            schema=schema,
            device=engine.device,
        ),
    )


def _share(total: int | None, share: object) -> int | None:
    if total is None or isinstance(share, bool) or not isinstance(share, (int, float)):
        return None
    return int(total * share)


def _local(config: ModelConfig, base: Path, refused: list[str]) -> str:
    """The directory of a source that has one on this disk, else the source as it is written."""
    try:
        size = tiny_source(config.source)
    except InvalidInput as error:
        refused.append(str(error))
        return config.source
    if size is not None:
        return str(tiny_home(size))
    local = (base / Path(config.source).expanduser()).resolve()
    if local.is_dir():
        return str(local)
    if config.source.startswith((".", "/", "~")):
        refused.append(f"models.{config.name}.source: no directory {local}")
    return config.source


def _judge_options(
    config: ModelConfig,
    engine: EngineEnvironment,
    source: str,
    environ: Mapping[str, str],
    refused: list[str],
    notes: list[str],
) -> None:
    schema = cached_schema(engine)
    if schema is None:
        notes.append(
            "the options are checked at the start: this vLLM was not asked for its own yet"
        )
    else:
        problems = check_options(config.options, schema)
        refused += [f"models.{config.name}.{p.key}: {p.text}" for p in problems]
    try:
        refuse_certain_failure(config, source, environ)
    except LaunchFailed as error:
        refused.append(f"{error.failure.cause}: {error.failure.line}; {error.failure.remedy}")


def file_problems(path: Path, read: Callable[[], Fleet]) -> FleetFile:
    """The file as it lies there, and its problems at their lines."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return FleetFile(str(path), (), (Trouble(None, "", f"{error.strerror}: {path}"),))
    notes: list[str] = []
    problems: list[Problem] = []
    try:
        problems += beyond_the_file(read(), notes)
    except FleetError as error:
        problems += error.problems
    except ConsoleError as error:
        problems.append(Problem("", None, str(error)))
    return FleetFile(
        str(path),
        tuple(line if _TABLE.search(line) else redact(line) for line in lines[:_LINES_MAX]),
        tuple(Trouble(p.line, p.key or "", p.text) for p in problems),
        tuple(notes),
    )


class Looking:
    """Answers questions about what is to be done; changes nothing. Lives in one event loop."""

    def __init__(
        self, path: Path, rollout: Rollout, factory: WorkerFactory, machine: Machine,
        expected_s: Callable[[str, int], float | None],
    ) -> None:  # fmt: skip
        """`path` is the fleet file; `expected_s` tells how long a revision takes to start."""
        self._path = path
        self._rollout = rollout
        self._factory = factory
        self._machine = machine
        self._expected_s = expected_s

    async def load_plan(self, model: ServedModel) -> LoadPlan:
        """What loading a model would take."""
        return await load_plan(
            model,
            self._factory,
            self._machine,
            base=self._path.parent,
            expected_s=self._expected_s(model.name, model.revision),
        )

    async def fleet_file(self) -> FleetFile:
        """The fleet file, its problems, and what applying it would do."""
        found = await asyncio.to_thread(file_problems, self._path, self._rollout.read)
        if found.problems:
            return found
        try:
            told = self._rollout.plan()
        except ConsoleError as error:  # it was written to just now
            return replace(found, problems=(Trouble(None, "", str(error)),))
        changes = (FileChange(c["model"], c["kind"], tuple(c["what"])) for c in told["changes"])
        return replace(found, changes=tuple(changes), digest=told["digest"])
