"""A fake machine: processes with pids that come again, GPUs, ports, and `vllm serve` trees."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fake_sleep_mode import GPU_BYTES, Rest
from tests.faults.virtual_time import Clock
from vllm_console.devices.nvml import NvmlReading
from vllm_console.snapshot import Gpu
from vllm_console.workers.launch import Exit, LaunchSpec, Served

GPUS = 4
FIRST_PORT = 18000
ORPHAN_GRACE_S = 2.0
"""What a shim gives the processes that their main process left behind."""
SHARED = "FAKE_SHARED"
"""Set in the environment of a worker whose model names its devices."""
OUT_OF_MEMORY = "(EngineCore pid=1) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate"
PORT_TAKEN = "OSError: [Errno 98] error while attempting to bind on address: address already in use"


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of all there ever were: a pid alone comes again."""

    boot: int
    pid: int
    start: int


class Moment:
    """Something that happens once, and those who wait for it in whatever loop."""

    def __init__(self) -> None:
        self.happened = False
        self._waiting: list[asyncio.Future[None]] = []

    def happen(self) -> None:
        """Wake everybody who waits."""
        self.happened = True
        for future in self._waiting:
            if not future.get_loop().is_closed():
                future.get_loop().call_soon(_wake, future)
        self._waiting.clear()

    async def wait(self) -> None:
        """Return once it has happened."""
        if not self.happened:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(frozen=True, slots=True)
class Start:
    """How the next `vllm serve` behaves."""

    boot_s: float = 1.5
    ends: str = ""
    """What it ends with instead of serving: "oom", "exit0", "killed", "never" (it hangs) or ""."""
    stubborn: bool = False
    """SIGTERM does not end it."""


@dataclass(eq=False, slots=True)
class Tree:
    """A shim, `vllm serve` and its engine process, as the kernel and the worker's files know it."""

    spec: LaunchSpec
    shared: bool
    start: Start
    at: float
    """Wall clock at launch."""
    launched: float
    log: Path
    log_start: int
    shim: Identity | None
    main: Identity
    engine: Identity | None = None
    main_ended: Moment = field(default_factory=Moment)
    shim_ended: Moment = field(default_factory=Moment)
    rc: int | None = None
    """How the main process ended, for its parent."""
    asked: bool = False
    """What the shim has noted of having been asked to end it."""
    exit: Exit | None = None
    served: Served | None = None
    serving: bool = False
    was_serving: bool = False
    hung: bool = False
    frozen: bool = False
    steps: int = 0
    bound: bool = False
    rest: Rest = field(default_factory=Rest)

    @property
    def gpu_bytes(self) -> int:
        """What it has of each of its GPUs."""
        return self.rest.gpu_bytes(self.shared)

    @property
    def lives(self) -> bool:
        """Some process of it, shim excepted, is there."""
        return not self.main_ended.happened or self.engine is not None


class Machine:
    """The kernel, the driver and the network of one machine, on a virtual clock."""

    def __init__(self, clock: Clock, root: Path) -> None:
        self.clock = clock
        self.root = root
        self.boot = 1
        self.booted = clock.now
        self.wall_jump = 1.7e9
        self.alive: dict[int, Identity] = {}
        self.ours: set[Identity] = set()
        """Every process of a tree this fleet launched, ended ones too."""
        self.trees: list[Tree] = []
        self.ports: dict[int, Identity] = {}
        self.wrongs: list[str] = []
        """What must never happen, and did."""
        self.next_start: Start = Start()
        self.lost_gpus: set[int] = set()
        self.driver_silent = False
        self.holds_memory_s = 0.0
        """How long the driver goes on naming an ended process."""
        self.ghosts: dict[int, tuple[tuple[int, ...], float]] = {}
        """Ended pids the driver still names: their GPUs, and until when."""
        self.attended = False
        """A daemon lives."""
        self.daemons = 0
        """How many there have been."""
        self.seen_from = clock.now
        """Since when the driver has answered."""
        self._last_start = 0
        self._unanswered: list[Callable[[], None]] = []

    # -- processes -------------------------------------------------------------------------

    def wall(self) -> float:
        """Seconds since the epoch, as the wall clock has it."""
        return self.clock.now + self.wall_jump

    def spawn(self, *, ours: bool) -> Identity:
        """A new process, under the lowest pid that is free."""
        pid = next(pid for pid in range(2, 10_000) if pid not in self.alive)
        self._last_start = max(self._last_start + 1, int((self.clock.now - self.booted) * 100))
        born = Identity(self.boot, pid, self._last_start)
        self.alive[pid] = born
        if ours:
            self.ours.add(born)
        return born

    def is_alive(self, identity: Identity | None) -> bool:
        """That very process is there."""
        return identity is not None and self.alive.get(identity.pid) == identity

    def end(self, identity: Identity | None) -> None:
        """A process ends and lets go of its ports; nothing happens to one that has ended."""
        if identity is None or not self.is_alive(identity):
            return
        del self.alive[identity.pid]
        self.ports = {port: owner for port, owner in self.ports.items() if owner != identity}

    def send(self, identity: Identity | None, number: signal.Signals) -> None:
        """Signal a process, as a handle does; whose it is is looked at here."""
        if identity is None or not self.is_alive(identity):
            return
        if identity not in self.ours:
            self.wrongs.append(f"{number.name} was sent to a stranger, {identity}")
        for tree in self.trees:
            if identity == tree.shim:
                self._shim_hears(tree, number)
            elif identity == tree.main:
                self._main_hears(tree, number)
            elif identity == tree.engine and number is signal.SIGKILL:
                self._engine_ends(tree)

    # -- trees -----------------------------------------------------------------------------

    def launch(self, spec: LaunchSpec, environment: Mapping[str, str]) -> Tree:
        """A shim that has its lock, and the main process it started."""
        start, self.next_start = self.next_start, Start()
        log = self.root / spec.worker_id / "out.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        shim = self.spawn(ours=True)
        tree = Tree(
            spec,
            SHARED in environment,
            start,
            self.wall(),
            self.clock.now,
            log,
            log.stat().st_size,
            shim,
            self.spawn(ours=True),
        )
        self._look_for_wrongs(tree)
        self.trees = [t for t in self.trees if t.spec.worker_id != spec.worker_id or t.lives]
        self.trees.append(tree)
        self.clock.later(0.4, lambda: self._binds(tree))
        self.clock.later(start.boot_s, lambda: self._boots(tree))
        return tree

    def living(self) -> list[Tree]:
        """Trees of which something is left."""
        return [tree for tree in self.trees if tree.lives]

    def main_ends(self, tree: Tree, rc: int) -> None:
        """The main process ends, whatever the reason."""
        if tree.main_ended.happened:
            return
        tree.rc = rc
        tree.serving = False
        self.end(tree.main)
        self._frees(tree, tree.main)
        tree.main_ended.happen()
        if tree.shim is not None:
            self.clock.later(
                0.05 if tree.engine is None else ORPHAN_GRACE_S, lambda: self._reap(tree)
            )
        elif not self.attended:
            self._engine_ends(tree)

    def unattended(self) -> None:
        """The daemon ends. What only it knew of ends too: whose it was, no file tells."""
        self.attended = False
        for tree in self.trees:
            if tree.shim is None and tree.main_ended.happened:
                self._engine_ends(tree)

    def engine_dies(self, tree: Tree) -> None:
        """The engine process ends; vLLM follows it and exits 0."""
        if tree.engine is not None:
            self._engine_ends(tree)
            self.clock.later(0.3, lambda: self.main_ends(tree, 0))

    def loses_shim(self, tree: Tree) -> None:
        """The shim is killed; the tree runs on."""
        self.end(tree.shim)
        tree.shim = None
        tree.shim_ended.happen()
        if tree.main_ended.happened and not self.attended:
            self._engine_ends(tree)

    def reboots(self) -> None:
        """Everything ends at once and pids begin anew; start times do as well."""
        for tree in self.living():
            self.end(tree.main)
            self.end(tree.engine)
            self.end(tree.shim)
            tree.engine = tree.shim = None
            tree.serving = False
            tree.main_ended.happen()
            tree.shim_ended.happen()
        self.alive.clear()
        self.ports.clear()
        self.ghosts.clear()
        self.boot += 1
        self.booted = self.clock.now
        self._last_start = 0

    def heals(self) -> None:
        """Driver, GPUs, ports and engines do what they should from now on."""
        self.driver_silent = False
        self.lost_gpus.clear()
        self.holds_memory_s = 0.0
        self.ghosts.clear()
        self.next_start = Start()
        self.ports = {port: owner for port, owner in self.ports.items() if owner in self.ours}
        for tree in self.trees:
            tree.hung = tree.frozen = False
            tree.rest.works = True
        self.answers()

    def _look_for_wrongs(self, new: Tree) -> None:
        for tree in self.living():
            if tree.spec.worker_id == new.spec.worker_id:
                self.wrongs.append(f"two trees of {new.spec.worker_id}")
            if tree.spec.port == new.spec.port:
                self.wrongs.append(f"port {new.spec.port} twice: {tree.spec} and {new.spec}")
            common = set(tree.spec.gpus) & set(new.spec.gpus)
            names = f"{tree.spec.worker_id} and {new.spec.worker_id}"
            if common and not new.shared and not tree.rest.asleep:
                self.wrongs.append(f"GPU {common} given to {names}, and not to be shared")
            if common and not tree.was_serving:
                self.wrongs.append(f"GPU {common}: {names} start at once")
            if common and tree.rest.waking:
                self.wrongs.append(f"GPU {common}: {names}, the one wakes, the other starts")

    def _binds(self, tree: Tree) -> None:
        if not self.is_alive(tree.main):
            return
        tree.engine = self.spawn(ours=True)
        if tree.spec.port in self.ports:
            self._says(tree, PORT_TAKEN)
            self._engine_ends(tree)
            self.main_ends(tree, 1)
        else:
            self.ports[tree.spec.port] = tree.main

    def _boots(self, tree: Tree) -> None:
        if not self.is_alive(tree.main) or tree.start.ends == "never":
            return
        if tree.start.ends == "oom":
            self._says(tree, OUT_OF_MEMORY)
            self._engine_ends(tree)
            self.main_ends(tree, 1)
        elif tree.start.ends == "exit0":
            self._engine_ends(tree)
            self.main_ends(tree, 0)
        elif tree.start.ends == "killed":
            self.main_ends(tree, -9)
        else:
            tree.serving = tree.was_serving = True

    def _shim_hears(self, tree: Tree, number: signal.Signals) -> None:
        tree.asked = True
        if number is signal.SIGUSR1:
            self.clock.later(0.02, lambda: self._kill(tree))
        elif number is signal.SIGTERM:
            self._main_hears(tree, signal.SIGTERM)
            self.clock.later(tree.spec.stop_grace_s, lambda: self._kill(tree))

    def _main_hears(self, tree: Tree, number: signal.Signals) -> None:
        if number is signal.SIGKILL:
            self.main_ends(tree, -9)
        elif tree.serving and not tree.start.stubborn and not tree.hung:
            tree.serving = False
            self.clock.later(0.5, lambda: self._shuts_down(tree))

    def _shuts_down(self, tree: Tree) -> None:
        if self.is_alive(tree.main):
            self._engine_ends(tree)
            self.main_ends(tree, 0)

    def _kill(self, tree: Tree) -> None:
        if tree.shim is not None:
            self._engine_ends(tree)
            self.main_ends(tree, -9)
            self._reap(tree)

    def _reap(self, tree: Tree) -> None:
        """The shim ends what is left, notes how it ended, and ends itself."""
        if tree.shim is None or not self.is_alive(tree.shim):
            return
        self._engine_ends(tree)
        assert tree.rc is not None
        tree.exit = Exit(tree.rc, tree.asked, self.wall())
        self.end(tree.shim)
        tree.shim = None
        tree.shim_ended.happen()

    def _engine_ends(self, tree: Tree) -> None:
        if tree.engine is not None:
            self.end(tree.engine)
            self._frees(tree, tree.engine)
            tree.engine = None

    def _frees(self, tree: Tree, identity: Identity) -> None:
        if self.holds_memory_s and tree.spec.gpus:
            self.ghosts[identity.pid] = (tree.spec.gpus, self.clock.now + self.holds_memory_s)

    def _says(self, tree: Tree, line: str) -> None:
        with tree.log.open("a") as log:
            log.write(line + "\n")

    # -- what the console asks ---------------------------------------------------------------

    def free_port(self, avoid: Iterable[int] = ()) -> int:
        """The lowest port nobody is bound to: the choice that collides most."""
        taken = set(avoid) | set(self.ports)
        return next(port for port in range(FIRST_PORT, FIRST_PORT + 1000) if port not in taken)

    def belongs(self, port: int, pids: Iterable[int]) -> bool | None:
        """Whether one of `pids` listens on that port; `None` when nobody does."""
        owner = self.ports.get(port)
        return None if owner is None else owner.pid in set(pids)

    def server(self, port: int) -> Tree | None:
        """The tree that answers on a port."""
        owner = self.ports.get(port)
        return next((tree for tree in self.living() if tree.main == owner), None)

    def reading(self) -> NvmlReading:
        """What the driver says of the GPUs and who is on them."""
        processes: dict[int, dict[int, int | None]] = {}
        self.ghosts = {p: ghost for p, ghost in self.ghosts.items() if ghost[1] > self.clock.now}
        for pid, (gpus, _) in self.ghosts.items():
            processes[pid] = dict.fromkeys(gpus, 1 << 30)
        for tree in self.living():
            if tree.engine is not None and tree.spec.gpus:
                processes[tree.engine.pid] = dict.fromkeys(tree.spec.gpus, tree.gpu_bytes)
        gpus_seen = tuple(
            Gpu(
                "here",
                index,
                f"GPU-{index}",
                "H100",
                None,
                *self._memory(index, processes),
                fault="fallen off the bus" if index in self.lost_gpus else None,
            )
            for index in range(GPUS)
        )
        return NvmlReading(gpus_seen, processes=processes)

    def _memory(
        self, index: int, processes: Mapping[int, Mapping[int, int | None]]
    ) -> tuple[int | None, int | None]:
        """Bytes used and in all; `None` of a GPU that is lost."""
        if index in self.lost_gpus:
            return None, None
        return sum(sizes.get(index) or 0 for sizes in processes.values()), GPU_BYTES

    def ask_driver(self, answer: Callable[[], None]) -> None:
        """Have the driver answer, soon or once it is silent no more."""
        self.clock.later(0.01, lambda: self._answer(answer))

    def answers(self) -> None:
        """The driver answers what it was asked while it was silent."""
        self.driver_silent = False
        self.seen_from = self.clock.now
        waiting, self._unanswered = self._unanswered, []
        for answer in waiting:
            answer()

    def _answer(self, answer: Callable[[], None]) -> None:
        if self.driver_silent:
            self._unanswered.append(answer)
        else:
            answer()
