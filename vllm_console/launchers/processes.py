"""Signals to, and the end of, processes that are not our children: never by a pid alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable

from vllm_console.workers.shim import descendants, process

POLL_S = 0.25
"""Where the kernel gives no pidfd (before 5.3, or a container that forbids it)."""


async def end_of(pid: int, start: int) -> None:
    """Return when the process of this pid and start time has ended; at once if it has."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        while _lives(pid, start):  # noqa: ASYNC110 - the kernel has no event for it here
            await asyncio.sleep(POLL_S)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if not _lives(pid, start):
            return
        loop.add_reader(watched, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(watched)
    finally:
        os.close(watched)


def send(member: tuple[int, int], number: signal.Signals) -> None:
    """Signal the process of this (pid, start time), and no other that might get its pid."""
    pid, start = member
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        if _lives(pid, start):
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        return
    try:
        if _lives(pid, start):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(held, number)
    finally:
        os.close(held)


def kill_all(members: Iterable[tuple[int, int]]) -> None:
    """SIGKILL every one of these processes that is still the same."""
    for member in members:
        send(member, signal.SIGKILL)


def members(leader: int) -> list[tuple[int, int]]:
    """(pid, start time) of a live session leader, its descendants, and its session's processes.

    The kernel gives a number to nobody else while a session goes by it.
    """
    pids = {leader, *descendants(leader)}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.getsid(int(name)) == leader:
                    pids.add(int(name))
            except OSError:
                continue
    return [(pid, seen[0]) for pid in sorted(pids) if (seen := process(pid)) is not None]


def _lives(pid: int, start: int) -> bool:
    seen = process(pid)
    return seen is not None and seen[0] == start
