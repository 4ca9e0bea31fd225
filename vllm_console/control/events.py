"""What happened to the fleet: a numbered log that outlives the daemon."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from vllm_console.snapshot import Event, from_json, to_json

_KEEP = 2000
"""Events in memory, and kept in the file when it is trimmed at start."""


def now_iso() -> str:
    """The wall clock as ISO 8601 UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventLog:
    """Appends events to memory and to a JSON-lines file; numbers go on where the file ends.

    A file that cannot be written costs the record, never the fleet: `trouble` says why.
    """

    def __init__(self, path: Path, clock: Callable[[], str] = now_iso) -> None:
        self._path = path
        self._clock = clock
        self._cut = False
        """The file ends within a line: a crash or a full disk took the rest of it."""
        self._recent: deque[Event] = deque(self._read(), maxlen=_KEEP)
        self._last = self._recent[-1].seq if self._recent else 0
        self._changed = asyncio.Event()
        self.trouble: str | None = None
        self._trim()

    def add(self, level: str, subject: str, text: str) -> Event:
        """Record one event; `level` is ok, info, warn or crit."""
        self._last += 1
        event = Event(self._last, self._clock(), level, subject, text)
        self._recent.append(event)
        self._append(event)
        self._changed.set()
        self._changed = asyncio.Event()
        return event

    def newest(self, count: int) -> tuple[Event, ...]:
        """The newest events, newest first."""
        return tuple(list(self._recent)[-count:][::-1])

    def after(self, seq: int, limit: int = _KEEP) -> list[Event]:
        """Events with a number above `seq`, oldest first; at most the newest `limit`."""
        return [e for e in self._recent if e.seq > seq][-limit:] if limit > 0 else []

    async def follow(self, seq: int) -> AsyncIterator[Event]:
        """Events above `seq`, then each new one."""
        while True:
            changed = self._changed
            for event in self.after(seq):
                seq = event.seq
                yield event
            await changed.wait()

    def _read(self) -> list[Event]:
        events: list[Event] = []
        try:
            with self._path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self._cut = not line.endswith("\n")
                    try:
                        event = from_json(Event, json.loads(line))
                        events.append(replace(event, seq=int(event.seq)))
                    except (ValueError, TypeError, AttributeError, OverflowError):
                        continue  # a line cut by a crash, or damaged
        except OSError:
            return []
        return events[-_KEEP:]

    def _trim(self) -> None:
        try:
            if self._path.stat().st_size < 4 << 20:
                return
            partial = self._path.with_suffix(".partial")
            partial.write_text("".join(_line(e) for e in self._recent), encoding="utf-8")
            os.replace(partial, self._path)
        except FileNotFoundError:
            return
        except OSError as error:
            self.trouble = f"events are not kept: {error}"

    def _append(self, event: Event) -> None:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                line = (b"\n" if self._cut else b"") + _line(event).encode()
                self._cut = os.write(fd, line) < len(line)
                if self._cut:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            finally:
                os.close(fd)
            self.trouble = None
        except OSError as error:
            self.trouble = f"events are not kept: {error}"


def _line(event: Event) -> str:
    return json.dumps(to_json(event), ensure_ascii=False, separators=(",", ":")) + "\n"
