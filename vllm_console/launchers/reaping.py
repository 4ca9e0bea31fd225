"""Ends orphans on request: each is looked at again, through a pidfd, right before its signal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from vllm_console.launchers.processes import kill_all
from vllm_console.workers.orphans import Kind, Orphan
from vllm_console.workers.shim import descendants, process

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL; an engine that is idle ends in about one second."""
KILLED_S = 5.0
"""Time that a killed tree may take to be gone; one in a driver call takes longer."""
_LOOK_S = 0.05

Look = Callable[[], Mapping[int, Orphan]]
"""Every orphan of this moment, by pid."""
Member = tuple[int, int]
"""Pid and start time."""


class Outcome(StrEnum):
    """What became of one orphan."""

    ENDED = "ended"
    """It followed SIGTERM."""
    KILLED = "killed"
    """It took SIGKILL."""
    GONE = "gone"
    """It had ended by itself; nothing was signalled."""
    CHANGED = "changed"
    """The pid is another process now, or no orphan any more; nothing was signalled."""
    DENIED = "denied"
    """It belongs to another user."""
    ALIVE = "alive"
    """It outlived SIGKILL so far."""


def reap(
    orphans: Sequence[Orphan],
    look: Look,
    *,
    grace_s: float = GRACE_S,
    killed_s: float = KILLED_S,
) -> dict[int, Outcome]:
    """End these process trees; what became of each, by pid.

    `look` is asked once for every one, after its pidfd is open: who is not the same orphan then
    (pid, start time, kind and reason) is left alone, whatever its pid. Workers that only lack a
    daemon are never signalled.
    """
    outcomes: dict[int, Outcome] = {}
    trees: dict[int, set[Member]] = {}
    for orphan in orphans:
        refused = _ask(orphan, look, trees)
        if refused is not None:
            outcomes[orphan.pid] = refused
    _until_gone(trees, time.monotonic() + grace_s)
    stubborn = {pid for pid, tree in trees.items() if _living(tree)}
    until = time.monotonic() + killed_s
    while left := {pid: tree for pid, tree in trees.items() if _living(tree)}:
        for tree in left.values():
            kill_all(_living(tree))
        if time.monotonic() >= until:
            break
        _until_gone(left, min(until, time.monotonic() + 0.5))
    for pid, tree in trees.items():
        ended = Outcome.KILLED if pid in stubborn else Outcome.ENDED
        outcomes[pid] = Outcome.ALIVE if _living(tree) else ended
    return outcomes


def _ask(orphan: Orphan, look: Look, trees: dict[int, set[Member]]) -> Outcome | None:
    """SIGTERM to the head of a tree, which is then in `trees`; else why it was not sent."""
    try:
        held = os.pidfd_open(orphan.pid)
    except ProcessLookupError:
        return Outcome.GONE
    except OSError:
        return Outcome.DENIED  # a kernel without pidfds: what cannot be held is not signalled
    try:
        now = look().get(orphan.pid)
        if now is None or now.kind is Kind.UNATTENDED or not _same(orphan, now):
            seen = process(orphan.pid)
            return Outcome.GONE if seen is None else Outcome.CHANGED
        signal.pidfd_send_signal(held, signal.SIGTERM)
    except ProcessLookupError:
        return Outcome.GONE
    except PermissionError:
        return Outcome.DENIED
    finally:
        os.close(held)
    trees[orphan.pid] = set(now.tree)
    return None


def _same(listed: Orphan, now: Orphan) -> bool:
    """The process that was agreed upon, for the reason that was given."""
    return (listed.pid, listed.start, listed.kind, listed.why, listed.uid) == (
        now.pid,
        now.start,
        now.kind,
        now.why,
        now.uid,
    )


def _until_gone(trees: Mapping[int, set[Member]], until: float) -> None:
    """Wait for the end of every tree, taking in what its processes start meanwhile."""
    while any(_living(tree) for tree in trees.values()):
        for tree in trees.values():
            for member in _living(tree):
                below = _members(descendants(member[0]))
                if _living([member]):  # else its pid may have been another's meanwhile
                    tree.update(below)
        if time.monotonic() >= until:
            return
        time.sleep(_LOOK_S)


def _living(tree: Iterable[Member]) -> list[Member]:
    """Those that are still the same process, deepest last."""
    return sorted((p, s) for p, s in tree if (seen := process(p)) is not None and seen[0] == s)


def _members(pids: Iterable[int]) -> list[Member]:
    return [(pid, seen[0]) for pid in pids if (seen := process(pid)) is not None]
