"""Every failure of vLLM that has a name here, brought about in the real engine and diagnosed.

    python -m benchmarks.faults.diagnoses [--only SUBSTRING]

Each start goes through `workers.Worker` and the local launcher without the checks that come
before a start, so that vLLM itself fails. A second look asks whether `validate` or `load` would
have said the same before any start. Prints a confusion table; exits with 1 when a diagnosis is
wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import CLI, table
from benchmarks.faults.table import NotMet, Outcome
from vllm_console import http1, snapshot
from vllm_console.control.launching import prepare
from vllm_console.engines.environment import EngineEnvironment, resolve
from vllm_console.engines.flags import flag_schema
from vllm_console.engines.tiny import tiny_model
from vllm_console.errors import ConsoleError
from vllm_console.fleet.load import FleetError, load_fleet
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.options import to_argv
from vllm_console.launchers.local import LocalHandle, LocalLauncher
from vllm_console.workers.launch import LaunchSpec
from vllm_console.workers.sockets import free_port
from vllm_console.workers.states import Cause, State
from vllm_console.workers.worker import Worker

AT_ONCE = 2
"""Starts side by side; more of them and two cores starve each other."""
PATIENCE_S = 240.0
"""Within this a start has failed or serves, also with two of them on a busy machine."""

QUICK: dict[str, Any] = {
    "max_model_len": 2048,
    "max_num_seqs": 8,
    "enforce_eager": True,
    "kv_cache_memory_bytes": "32M",
    "distributed_executor_backend": "uni",
}
"""Options under which a tiny model is ready soonest."""
ENV = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}

Break = Callable[[Path], None]
"""Damages the copy of a model that lies in this directory."""
Inject = Callable[[LocalHandle], None]
"""Does something to a tree that runs."""


# --- what is done to a model, and to a tree ------------------------------------------------------


def _without(name: str) -> Break:
    return lambda directory: (directory / name).unlink()


def _configured(**changes: Any) -> Break:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _config_of_no_json(directory: Path) -> None:
    (directory / "config.json").write_text("{not json")


def _cut_short(directory: Path) -> None:
    path = directory / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def _tokenizerless(directory: Path) -> None:
    for path in directory.glob("tokenizer*"):
        path.unlink()


def _signal(title: str, number: signal.Signals) -> Inject:
    """Signal the process of the tree whose command line begins with `title`; "" is its head."""

    def send(handle: LocalHandle) -> None:
        pid = handle.pid if not title else titled(handle.tree(), title)
        os.kill(pid, number)

    return send


def titled(tree: Sequence[int], title: str) -> int:
    """The pid of the process that calls itself so (vLLM rewrites its command lines).

    Raises `NotMet` when none of these does.
    """
    for pid in tree:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(title.encode()):
            return pid
    raise NotMet(f"no process of the tree {list(tree)} is called {title}")


# --- the failures --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """One failure: how it is brought about, and what it is to be called."""

    fault: str
    expected: Cause | None
    """`None` for what looks wrong and serves all the same."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Engine options on top of `QUICK`; `None` takes one out."""
    source: str | None = None
    """In place of a copy of the small tiny model."""
    broken: Break | None = None
    port: int | None = None
    port_held: bool = False
    inject: Inject | None = None
    at: str | None = None
    """The stage at which to inject; `None` is once it is ready."""

    @property
    def given(self) -> dict[str, Any]:
        """Every engine option of this case."""
        return {k: v for k, v in {**QUICK, **self.options}.items() if v is not None}


CASES = (
    Case("unknown flag", Cause.BAD_OPTION, {"no_such_flag": 3}),
    Case("bad choice", Cause.BAD_OPTION, {"dtype": "float99"}),
    Case("bad int", Cause.BAD_OPTION, {"max_model_len": "abc"}),
    Case("port out of range", Cause.BAD_OPTION, port=70000),
    Case("port used", Cause.PORT_IN_USE, port_held=True),
    Case("model directory missing", Cause.MODEL_NOT_FOUND, source="/no/such/model"),
    Case("hub id not cached, offline", Cause.MODEL_NOT_FOUND, source="nobody/no-such-model"),
    Case("config.json broken", Cause.WEIGHTS_BROKEN, broken=_config_of_no_json),
    Case(
        "unknown architecture",
        Cause.UNSUPPORTED_MODEL,
        broken=_configured(model_type="foo", architectures=["FooForCausalLM"]),
    ),
    Case("max_model_len > the model's", Cause.BAD_OPTION, {"max_model_len": 8192}),
    Case("TP does not divide the heads", Cause.BAD_OPTION, {"tensor_parallel_size": 3}),
    Case("no quantization config", Cause.BAD_OPTION, {"quantization": "awq"}),
    Case(
        "batched tokens < length",
        Cause.BAD_OPTION,
        {"max_num_batched_tokens": 16, "enable_chunked_prefill": False},
    ),
    Case("gpu_memory_utilization 1.5", Cause.BAD_OPTION, {"gpu_memory_utilization": 1.5}),
    Case("sleep mode on a CPU", Cause.BAD_OPTION, {"enable_sleep_mode": True}),
    Case("KV cache too big", Cause.OUT_OF_MEMORY, {"kv_cache_memory_bytes": "200G"}),
    Case("KV cache too small", Cause.KV_TOO_SMALL, {"kv_cache_memory_bytes": "512K"}),
    Case("no weights", Cause.WEIGHTS_BROKEN, broken=_without("model.safetensors")),
    Case("weights cut short", Cause.WEIGHTS_BROKEN, broken=_cut_short),
    Case("weights of another shape", Cause.WEIGHTS_BROKEN, broken=_configured(hidden_size=64)),
    Case("no tokenizer", None, broken=_tokenizerless),
    Case("KV cache of fp8", None, {"kv_cache_dtype": "fp8"}),
    Case("kill -9 API server", Cause.KILLED, inject=_signal("", signal.SIGKILL)),
    Case(
        "kill -9 EngineCore", Cause.ENGINE_DIED, inject=_signal("VLLM::EngineCore", signal.SIGKILL)
    ),
    Case(
        "kill -9 Worker",
        Cause.ENGINE_DIED,
        {"distributed_executor_backend": "mp"},
        inject=_signal("VLLM::Worker", signal.SIGKILL),
    ),
    Case(
        "SIGTERM to EngineCore",
        Cause.ENGINE_DIED,
        inject=_signal("VLLM::EngineCore", signal.SIGTERM),
    ),
    Case("SIGTERM by a stranger", Cause.KILLED, inject=_signal("", signal.SIGTERM)),
    Case("SIGTERM while it imports", Cause.KILLED, inject=_signal("", signal.SIGTERM), at="import"),
    Case("kill -9 while it boots", Cause.KILLED, inject=_signal("", signal.SIGKILL), at="weights"),
    Case(
        "kill -9 EngineCore while it boots",
        Cause.ENGINE_DIED,
        inject=_signal("VLLM::EngineCore", signal.SIGKILL),
        at="weights",
    ),
)


# --- one case ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What came of one case."""

    case: Case
    failure: snapshot.Failure | None
    """`None` when the worker serves."""
    seconds: float
    """From the launch, or the fault injected, to the diagnosis."""
    before: str
    """Who says it before any start, and in how many ms."""

    @property
    def cause(self) -> str:
        """The diagnosed cause, or "serves"."""
        return str(self.failure.cause) if self.failure else "serves"

    @property
    def right(self) -> bool:
        """The diagnosis names the expected cause."""
        return self.cause == _expected(self.case)


def _expected(case: Case) -> str:
    return str(case.expected) if case.expected else "serves"


class Bench:
    """Starts the cases over one engine, each in a directory of its own."""

    def __init__(self, root: Path, engine: EngineEnvironment) -> None:
        self.root = root
        self.engine = engine
        self.tiny = tiny_model("small", engine)
        self.schema = flag_schema(engine)
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def all(self, cases: Sequence[Case], say: Callable[[Diagnosed], None]) -> list[Diagnosed]:
        """Every case diagnosed; `say` hears of each as it is done."""

        async def one(number: int, case: Case) -> Diagnosed:
            async with self._turn:
                done = await self._one(self.root / f"case-{number:02}", case)
            say(done)
            return done

        return list(await asyncio.gather(*(one(n, case) for n, case in enumerate(cases))))

    async def _one(self, directory: Path, case: Case) -> Diagnosed:
        source = await asyncio.to_thread(self._source, directory, case)
        before = await asyncio.to_thread(self._said_before, directory, case, source)
        with ExitStack() as held:
            port = case.port or free_port()
            if case.port_held:
                taken = held.enter_context(socket.socket())
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                port = taken.getsockname()[1]
            failure, seconds = await self._failed(directory, case, source, port)
        return Diagnosed(case, failure, seconds, before)

    def _source(self, directory: Path, case: Case) -> str:
        directory.mkdir()
        if case.source is not None or case.broken is None:
            return case.source or str(self.tiny)
        model = directory / "model"
        shutil.copytree(self.tiny, model)
        case.broken(model)
        return str(model)

    async def _failed(
        self, directory: Path, case: Case, source: str, port: int
    ) -> tuple[snapshot.Failure | None, float]:
        """The failure of one real start, and how long it took; nothing is left of it then."""
        http = http1.Pool()
        launcher = LocalLauncher(directory / "workers")
        # a port that cannot be bound is for the command line alone
        spec = LaunchSpec(
            "m-1", "m", 1, self._argv(case, source, port), min(port, 65535), ("m",),
            stop_grace_s=20.0, start_timeout_s=PATIENCE_S,
        )  # fmt: skip

        async def prepared() -> tuple[LaunchSpec, dict[str, str]]:
            return spec, self._environment()

        staged = asyncio.Event()

        def note(_: Worker, view: snapshot.Worker) -> None:
            if view.pid is not None and view.stage == case.at:
                staged.set()

        worker = Worker(
            "m-1", "m", prepare=prepared, launcher=launcher, http=http, on_change=note, node="here"
        )  # fmt: skip
        ends = {State.FAILED, State.BACKOFF, State.CRASH_LOOP}
        began = time.monotonic()
        try:
            worker.load()
            if case.inject is not None:
                if case.at is None:
                    await worker.wait({State.READY, *ends}, PATIENCE_S)
                else:
                    await asyncio.wait_for(staged.wait(), PATIENCE_S)
                if worker.state not in ends:
                    (handle,) = await launcher.adopt()
                    began = time.monotonic()
                    case.inject(handle)
                await worker.wait(ends, PATIENCE_S)
            else:
                await worker.wait({State.READY, *ends}, PATIENCE_S)
            return worker.view.failure, time.monotonic() - began
        finally:
            await worker.unload()
            await worker.close()
            await http.close()

    def _argv(self, case: Case, source: str, port: int) -> tuple[str, ...]:
        where = ("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "m")
        own = ("--disable-uvicorn-access-log", "--shutdown-timeout", "10")
        options = to_argv(case.given, self.schema)
        return (str(self.engine.program), "serve", source, *where, *options, *own)

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "TMPDIR")}
        path = os.pathsep.join((str(self.engine.program.parent), os.defpath))
        return {**kept, "PATH": path, "PYTHONUNBUFFERED": "1", **ENV}

    def _said_before(self, directory: Path, case: Case, source: str) -> str:
        """Whether `validate`, or what `load` does before a launch, refuses this model."""
        if case.inject is not None:
            return "–"
        if case.port is not None or case.port_held:
            return "cannot come up: ports are chosen"
        file = directory / "fleet.toml"
        file.write_text(_fleet(source, case.given, self.engine.name))
        began = time.perf_counter()
        words = [str(CLI), "--fleet", str(file), "validate"]
        said = subprocess.run(words, capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
        if said.returncode:
            return f"validate, {took * 1000:.0f} ms"
        try:
            (model,) = load_fleet(file).models.values()
            began = time.perf_counter()
            asyncio.run(_would_load(model, directory))
        except FleetError as error:
            return f"fleet file: {error}"
        except ConsoleError:
            return f"load, {(time.perf_counter() - began) * 1000:.0f} ms"
        return "no"


def _fleet(source: str, options: Mapping[str, Any], engine: str) -> str:
    lines = ['[fleet]\nname = "cases"\n', "[models.m]", f"source = {json.dumps(source)}"]
    lines += [f"engine = {json.dumps(engine)}", "gpus = 0", "[models.m.options]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    lines += ["[models.m.env]", *(f"{key} = {json.dumps(value)}" for key, value in ENV.items())]
    return "\n".join(lines) + "\n"


async def _would_load(model: ModelConfig, base: Path) -> None:
    await prepare("m-1", model, 1, base=base, gpus=(), taken=dict, ports_in_use=tuple)


# --- the table -----------------------------------------------------------------------------------


def diagnoses(directory: Path) -> Outcome:
    """Every case in the real engine; survived are those diagnosed right. Prints its own table."""
    return outcome(asyncio.run(_run(directory, CASES)))


def outcome(done: Sequence[Diagnosed]) -> Outcome:
    """The cases as one row of the table of faults."""
    wrong = [one.case.fault for one in done if not one.right]
    return Outcome(
        fault="every failure of vLLM named right",
        engine="vLLM",
        injections=len(done),
        survived=len(done) - len(wrong),
        lost=None,
        sent=None,
        recovery_s=tuple(one.seconds for one in done),
        note=f"wrong: {', '.join(wrong)}" if wrong else "seconds are start to diagnosis",
    )


async def _run(directory: Path, cases: Sequence[Case]) -> list[Diagnosed]:
    def say(one: Diagnosed) -> None:
        mark = "right" if one.right else f"WRONG, expected {_expected(one.case)}"
        print(f"{one.case.fault}: {one.cause}, {mark} ({one.seconds:.0f} s)", file=sys.stderr)

    done = await Bench(directory, resolve("cpu")).all(cases, say)
    table(
        [
            [
                one.case.fault,
                _expected(one.case),
                one.cause if one.right else f"{one.cause} ✗",
                one.failure.line[:70] if one.failure else None,
                one.failure.remedy[:80] if one.failure else None,
                one.seconds,
                one.before,
            ]
            for one in done
        ],
        ["fault", "expected", "diagnosed", "telling line", "remedy", "s", "said before a start"],
    )
    right = sum(one.right for one in done)
    print(f"{right} right, {len(done) - right} wrong")
    return done


def main() -> int:
    """Run the cases; the value is 1 when one is diagnosed wrong."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--only", default="", help="cases whose name contains this")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllm-console-faults-") as directory:
        chosen = [case for case in CASES if args.only in case.fault]
        done = asyncio.run(_run(Path(directory), chosen))
    return 0 if all(one.right for one in done) else 1


if __name__ == "__main__":
    sys.exit(main())
