"""A fleet on the fake machine: its file, the daemons that come and go, and what always holds."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.faults.fake_launcher import FakeLauncher, FakeNvml, on
from tests.faults.fake_machine import GPUS, SHARED, Machine, Tree
from tests.faults.virtual_time import Clock, VirtualLoop
from vllm_console.control.daemon import Daemon
from vllm_console.control.process import make_state_dir
from vllm_console.control.served import Actor
from vllm_console.errors import ConsoleError
from vllm_console.fleet.find import locate
from vllm_console.fleet.load import load_fleet
from vllm_console.workers.states import ENDED, Cause, State

KINDS = {
    "one": "gpus = 1\n",
    "two": "gpus = 1\nscale = { min = 2, max = 2 }\n",
    "cpu": "gpus = 0\n",
    "zero": f'devices = [0]\nenv = {{ {SHARED} = "1" }}\n',
    "last": f'devices = [{GPUS - 1}]\nenv = {{ {SHARED} = "1" }}\n',
    "manual": "gpus = 1\nautostart = false\n",
    "nap": "gpus = 1\nsleep_level = 2\n",
    "naps": "gpus = 1\nscale = { min = 2, max = 2 }\nsleep_level = 1\n",
    "turns": f'devices = [0]\nsleep_level = 1\nenv = {{ {SHARED} = "1" }}\n',
    "eager": 'gpus = 0\non_stall = "restart"\n',
}
"""What a model may ask for."""
HEAD = """[defaults]
engine = "fake"
drain_timeout = "1s"
start_timeout = "20s"
stall_after = "10s"
"""
BOOT_S = 0.2
"""A daemon takes longer than this to be there: its predecessor's shims have their locks by then."""
SETTLED_S = 2000.0
"""Longer than every back-off and grace together."""


class _Errors(logging.Handler):
    """Collects what is logged as an error: a bug somewhere."""

    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(self.format(record))


class World:
    """One fleet on a fake machine, and the daemons that come and go."""

    def __init__(self) -> None:
        self._open = ExitStack()
        root = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="world-")))
        self.clock = Clock()
        self.machine = Machine(self.clock, root / "state" / "workers")
        self._open.enter_context(on(self.machine))
        errors = _Errors(self.machine.wrongs)
        logging.getLogger("vllm_console").addHandler(errors)
        self._open.callback(logging.getLogger("vllm_console").removeHandler, errors)
        self.models = {"a": ("one", 1), "b": ("two", 1), "c": ("zero", 1)}
        """What the fleet file says of each model: its kind, and the step of an option."""
        self._file = root / "fleet.toml"
        self.write()
        self._place = locate(self._file, root / "state")
        self.daemon: Daemon | None = None
        self.loop: VirtualLoop | None = None
        self.launcher = FakeLauncher(self.machine)
        self._commands: set[asyncio.Task[Any]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._loops: list[VirtualLoop] = []
        self._daemons: list[Daemon] = []

    # -- what may happen ---------------------------------------------------------------------

    def write(self) -> None:
        """Write the fleet file."""
        text = HEAD
        for name, (kind, step) in self.models.items():
            text += f'[models.{name}]\nsource = "fake/{name}"\n{KINDS[kind]}'
            text += f"[models.{name}.options]\nfake_step_s = {step / 10}\n"
        self._file.write_text(text)

    def up(self) -> None:
        """Start a daemon; it has just begun when this returns."""
        assert self.daemon is None
        self.elapse(BOOT_S)
        self.machine.attended = True
        self.machine.daemons += 1
        make_state_dir(self._place)
        self.loop = VirtualLoop(self.clock)
        self._loops.append(self.loop)
        self.launcher = FakeLauncher(self.machine)
        self.daemon = Daemon(
            self._place,
            load_fleet(self._file),
            nvml=FakeNvml(self.machine),
            launcher=self.launcher,
            clock=self.loop.time,
        )
        self._daemons.append(self.daemon)
        self._starting = self.loop.create_task(self.daemon.start())
        self.elapse(0.01)

    def elapse(self, seconds: float, rounds: int | None = None) -> None:
        """Let time pass, or so many rounds of the daemon's loop."""
        if self.loop is not None:
            self.loop.run_for(seconds, rounds)
        else:
            until = self.clock.now + seconds
            while self.clock.advance(until):
                pass

    def ask(self, verb: str, **args: Any) -> asyncio.Task[Any]:
        """Have a client ask something of the daemon."""
        assert self.daemon is not None
        return self._begin(self.daemon.command(verb, args))

    def kill(self) -> None:
        """SIGKILL the daemon where it stands: nothing of it runs any more."""
        self.launcher.dead = True
        self._ended()

    def terminate(self) -> None:
        """SIGTERM the daemon, as control.main hears it."""
        assert self.daemon is not None
        assert self.loop is not None
        self._finish(self._starting, 60)
        for command in self._commands:
            command.cancel()
        self._finish(self.loop.create_task(self.daemon.close()), 60)
        self.loop.run_for(0.1)  # threads are waited for
        self._ended()

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        assert self.loop is not None
        task = self.loop.create_task(work)
        self._commands.add(task)
        return task

    def _finish(self, task: asyncio.Task[None] | None, within_s: float) -> None:
        assert self.loop is not None
        assert task is not None
        end = self.clock.now + within_s
        while not task.done():
            assert self.clock.now < end, f"{task} takes more than {within_s} s"
            self.loop.run_for(0.05)
        task.result()

    def _ended(self) -> None:
        self.daemon = self.loop = self._starting = None
        self._commands.clear()
        self.machine.unattended()

    def close(self) -> None:
        """Dispose of every daemon there was."""
        for loop in self._loops:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait_for(_all(tasks), 60))
            loop.close()
        self._open.close()

    # -- what must hold ----------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """A daemon lives and has adopted what it found."""
        return self._starting is not None and self._starting.done()

    def workers(self) -> dict[str, Actor]:
        """The workers the daemon knows."""
        assert self.daemon is not None
        return {worker.id: worker for _, worker in self.daemon.models.workers()}

    def check(self) -> None:
        """Everything that holds at all times."""
        for task in [task for task in self._commands if task.done()]:
            self._commands.discard(task)
            if not task.cancelled() and not isinstance(task.exception(), ConsoleError | None):
                raise task.exception() or AssertionError
        wrongs = list(self.machine.wrongs)
        trees = self.machine.living()
        ids = [tree.spec.worker_id for tree in trees]
        wrongs += [f"two trees of {worker}" for worker in set(ids) if ids.count(worker) > 1]
        if self._starting is not None and self._starting.done():
            self._starting.result()
            wrongs += [wrong for tree in trees if (wrong := self._lost(tree))]
        assert wrongs == [], "\n".join(wrongs)

    def _lost(self, tree: Tree) -> str | None:
        """What is wrong with how the daemon knows a tree."""
        worker = self.workers().get(tree.spec.worker_id)
        if worker is None:
            return f"{tree.spec.worker_id} lives and the daemon does not know it"
        if worker.view.state in {*ENDED, State.BACKOFF, State.QUEUED}:
            return f"{worker.id} lives and is called {worker.view.state} ({worker.view.failure})"
        if worker.view.pid not in (None, tree.main.pid):
            return f"{worker.id} is {tree.main.pid}, not {worker.view.pid}"
        return None

    def settle(self) -> None:
        """Heal the machine: then what is wanted serves, or says why it does not."""
        self.machine.heals()
        self.launcher.refusals.clear()
        if self.daemon is None:
            self.up()
        self.until(self._settled, "settle")
        if self.daemon is None:  # it had been asked to go down
            self.up()
            self.until(self._settled, "settle")
        assert self.daemon is not None
        for name, model in self.daemon.models.items():
            if model.wanted and model.state is State.STOPPED:  # it slept; whoever asks starts it
                self.ask("load", model=name)
        self.until(self._settled, "settle")
        for model in self.daemon.models.values():
            workers = list(model.workers.values())
            if not model.wanted:
                running = [w.id for w in workers if w.state not in ENDED]
                assert running == [], f"{model.name} is not wanted"
                continue
            assert len(workers) == model.wanted, (model.name, model.wanted, list(model.workers))
            for worker in workers:
                view = worker.view
                told = view.failure if view.state != State.STOPPED else view.reason
                assert view.state in (State.READY, State.ASLEEP) or told, f"{worker.id} {view}"

    def _settled(self) -> bool:
        if self.daemon is None:
            return True
        return self.begun and not self._commands and all(map(_decided, self.workers().values()))

    def down(self) -> None:
        """Take the fleet down: then nothing is left."""
        if self.daemon is not None:
            self.ask("down")
            self.until(lambda: self.daemon is None, "go down")

    def until(self, holds: Callable[[], bool], what: str) -> None:
        end = self.clock.now + SETTLED_S
        while not holds():
            if self.clock.now > end:
                states = {w: str(a.view) for w, a in self.workers().items()}
                raise AssertionError(f"does not {what}: {states}, commands {self._commands}")
            self.step(5.0)

    def step(self, seconds: float, rounds: int | None = None) -> None:
        """Let time pass and look whether all is well, and whether the daemon is done."""
        self.elapse(seconds, rounds)
        self.check()
        if self.daemon is not None and self.daemon.stopped.is_set():
            left = [tree.spec.worker_id for tree in self.machine.living()]
            assert left == [], "the fleet is down"
            self.terminate()
            self.elapse(5.0)
            left = [tree.spec.worker_id for tree in self.machine.living()]
            assert left == [], "the fleet was down"


def _decided(worker: Actor) -> bool:
    """It serves, has ended, or waits for a GPU that others have."""
    failure = worker.view.failure
    if worker.state is State.BACKOFF:
        return failure is not None and failure.cause == Cause.NO_FREE_GPU
    return worker.state in {*ENDED, State.READY, State.ASLEEP}


async def _all(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
