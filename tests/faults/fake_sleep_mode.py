"""Sleep mode of the fake machine's engines: what each has done of it, and who has room to wake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.fake_machine import Machine, Tree

GPU_BYTES = 8 << 30
_OWN_BYTES = 6 << 30
"""What a worker takes of a GPU that it has to itself: two of them have no room on one."""
_SHARED_BYTES = 1 << 30
_ASLEEP_BYTES = 100 << 20
SWITCH_S = 0.4
"""What an engine takes to fall asleep, and for each step of waking up."""
_BLIND_S = 10.0
"""After a silent driver has answered again, what was asked before may still be what is known."""


@dataclass(slots=True)
class Rest:
    """How far an engine is from serving though it lives."""

    asleep: bool = False
    loaded: bool = True
    """Its weights are those of the model."""
    waking: bool = False
    works: bool = True
    """Its engine does what it is told."""
    busy_until: float = 0.0
    """An engine does one thing after the other."""
    put_to_sleep_by: int = 0
    """The daemon that did, by its number."""

    def gpu_bytes(self, shared: bool) -> int:
        """What it has of each of its GPUs; less where it shares them."""
        if self.asleep:
            return _ASLEEP_BYTES
        return _SHARED_BYTES if shared else _OWN_BYTES


def switch(machine: Machine, tree: Tree, what: str) -> float:
    """Tell an engine `what` (sleep, wake, weights, reload, kv_cache); returns when it has done it.

    Raises `ValueError` where it does not do it.
    """
    rest, clock = tree.rest, machine.clock
    if not rest.works:
        raise ValueError("EngineCore encountered an issue")
    if what in ("wake", "weights"):
        _look_who_is_beside(machine, tree)
    rest.waking = rest.asleep and what != "sleep"
    rest.busy_until = max(clock.now, rest.busy_until) + SWITCH_S
    clock.later(rest.busy_until - clock.now, lambda: _switched(machine, tree, what))
    return rest.busy_until


def _switched(machine: Machine, tree: Tree, what: str) -> None:
    rest = tree.rest
    rest.waking = False
    if what == "sleep":
        rest.asleep = True
        rest.loaded = tree.spec.sleep_level < 2
        rest.put_to_sleep_by = machine.daemons
    elif what == "reload":
        rest.loaded = True
    elif what in ("wake", "kv_cache"):
        rest.asleep = False
        if not rest.loaded:
            machine.wrongs.append(f"{tree.spec.worker_id} serves without its weights")


def _look_who_is_beside(machine: Machine, tree: Tree) -> None:
    """Raise `ValueError` where there is no room; that is a wrong if the console could know."""
    others = [t for t in machine.living() if t is not tree and not t.main_ended.happened]
    for index in tree.spec.gpus:
        beside = [other for other in others if index in other.spec.gpus]
        names = f"{tree.spec.worker_id} beside {[other.spec.worker_id for other in beside]}"
        if any(not other.was_serving for other in beside):
            machine.wrongs.append(f"GPU {index}: wakes while another starts, {names}")
        awake = Rest().gpu_bytes(tree.shared)
        if sum(other.gpu_bytes for other in beside) + awake > GPU_BYTES:
            if tree.rest.put_to_sleep_by == machine.daemons and _sees(machine):
                machine.wrongs.append(f"GPU {index}: wakes without room, {names}")
            raise ValueError("CUDA out of memory")


def _sees(machine: Machine) -> bool:
    """A daemon lives that could know what is on every GPU."""
    blind = machine.driver_silent or machine.lost_gpus or machine.holds_memory_s or machine.ghosts
    return machine.attended and not blind and machine.clock.now - machine.seen_from > _BLIND_S
