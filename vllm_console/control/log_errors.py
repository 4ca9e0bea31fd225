"""Counts the errors that engines write into their logs, as they write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vllm_console.snapshot import LogErrors
from vllm_console.workers import logs
from vllm_console.workers.redaction import redact

_LINE = re.compile(
    r"^(?P<from>(?:\([\w-]+(?: pid=\d+)?\) )?(?P<level>ERROR|CRITICAL|WARNING):? +"
    r"(?:\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]+\])?)(?P<text>.*)"
)
"""A line of vLLM's or uvicorn's logger; a traceback repeats `from` on each of its lines."""
_LONGEST = 300
"""Characters kept of the newest error."""
_MOST = 1 << 20
"""Bytes read of one log at a look; what is more waits for the next."""


@dataclass(slots=True)
class _Read:
    """How far one worker's log has been read."""

    offset: int
    since: float
    errors: int = 0
    warnings: int = 0
    newest: str | None = None
    newest_at: float = 0.0
    rest: bytes = b""
    last_from: str = field(default="")


class LogWatch:
    """Reads along in the logs of workers, from where they end when it first sees them.

    `look` blocks for the reading and belongs into a thread; `told` does not read.
    """

    def __init__(self, log_path: Callable[[str], Path], clock: Callable[[], float]) -> None:
        self._log_path = log_path
        self._clock = clock
        self._reads: dict[str, _Read] = {}

    def look(self, workers: Iterable[str]) -> None:
        """Read what these workers have written since the last look; forget all others."""
        now, before = self._clock(), self._reads
        reads: dict[str, _Read] = {}
        for worker in workers:
            path = self._log_path(worker)
            read = before.get(worker)
            if read is None:
                try:
                    read = _Read(path.stat().st_size, now)
                except OSError:  # not started yet, or only watched: its log is not here
                    continue
            chunk = logs.read(path, read.offset, _MOST)
            read.offset = chunk.end
            _take(read, chunk.data, now)
            reads[worker] = read
        self._reads = reads

    def told(self) -> Mapping[str, LogErrors]:
        """What is known of each worker by now."""
        now = self._clock()
        return {
            worker: LogErrors(
                read.errors,
                read.warnings,
                round(now - read.since, 1),
                read.newest,
                None if read.newest is None else round(now - read.newest_at, 1),
            )
            for worker, read in self._reads.items()
        }


def _take(read: _Read, data: bytes, now: float) -> None:
    *lines, read.rest = (read.rest + data).split(b"\n")
    read.rest = read.rest[-_MOST:]
    for raw in lines:
        line = _LINE.match(logs.plain(raw.decode("utf-8", "replace")))
        if line is None:
            continue
        again, read.last_from = line["from"] == read.last_from, line["from"]
        if line["level"] == "WARNING":
            read.warnings += not again
            continue
        read.errors += not again
        text = line["text"].strip()
        if text:
            read.newest, read.newest_at = redact(text)[:_LONGEST], now
