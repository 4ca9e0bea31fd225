"""NVML for an event loop: a driver that hangs costs no more than its own numbers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from vllm_console.devices.nvml import Nvml, NvmlReading
from vllm_console.snapshot import Gpu

WAIT_S = 1.0
"""Seconds a poll waits for the driver before it makes do with what was read last."""
SILENT_S = 5.0
"""Seconds a driver may take before its GPUs count as not answering: calls of 2 s are seen on
healthy machines."""
NOT_YET = "not read yet"
_CLOSE_S = 1.0

_log = logging.getLogger(__name__)

T = TypeVar("T")


class PatientNvml:
    """Asks NVML in a thread, one question at a time; all methods belong to one event loop.

    The threads are daemon threads: a call that never returns does not keep the process from ending.
    """

    def __init__(self, nvml: Nvml, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self._clock = clock
        self._last = NvmlReading((), NOT_YET)
        self._asked: asyncio.Future[NvmlReading] | None = None
        """The question under way."""
        self._asked_at = 0.0

    async def poll(self, wait_s: float = WAIT_S) -> NvmlReading:
        """What all GPUs do now, or what `reading` says if that takes longer than `wait_s`."""
        if self._asked is None:
            self._asked_at = self._clock()
            self._asked = _in_thread(self._read)
            self._asked.add_done_callback(self._answered)
        await asyncio.wait({self._asked}, timeout=wait_s)
        return self.reading

    @property
    def silent_s(self) -> float | None:
        """Seconds the driver has owed an answer, once that is remarkable; else `None`."""
        if self._asked is None or self._asked.done():
            return None
        owed_s = self._clock() - self._asked_at
        return owed_s if owed_s >= SILENT_S else None

    @property
    def reading(self) -> NvmlReading:
        """The newest answer; from a silent driver no numbers, and since when it is silent."""
        last, silent_s = self._last, self.silent_s
        if silent_s is None:
            return last
        fault = f"driver does not answer for {silent_s:.0f} s"
        gpus = tuple(Gpu(g.node, g.index, g.uuid, g.name, fault=fault) for g in last.gpus)
        return NvmlReading(gpus, None if gpus else f"the NVIDIA {fault}", at=last.at)

    async def close(self) -> None:
        """Lets go of the driver; not of one that hangs, which the end of the process does."""
        if self._asked is None:
            await asyncio.wait({_in_thread(self._nvml.close)}, timeout=_CLOSE_S)

    def _answered(self, answer: asyncio.Future[NvmlReading]) -> None:
        self._last, self._asked = replace(answer.result(), at=self._asked_at), None

    def _read(self) -> NvmlReading:
        try:
            return self._nvml.poll()
        except Exception as error:
            _log.exception("NVML could not be read")
            return NvmlReading((), f"a bug of the console, see daemon.log: {error!r}")


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """The result of blocking work, which must not raise, in a daemon thread of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def run() -> None:
        result = work()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, name="nvml", daemon=True).start()
    return future
