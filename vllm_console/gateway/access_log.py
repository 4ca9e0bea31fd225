"""One line of JSON a request, in batches, in files that rotate; never a word of what was asked.

Lines are made by the event loop's thread, some at a time: made by the writer's, thousands at once,
they kept the loop from the interpreter for milliseconds of each second.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import msgspec

from vllm_console.gateway.admission import CLASSES
from vllm_console.gateway.measures import Record

BYTES = 100_000_000
"""Size from which a file is put aside."""
FILES = 5
"""Files that are kept, the one that is written to among them."""
WAITING = 100_000
"""Lines that wait at most for the disk, about 30 MB; what comes beyond is lost and counted."""
BATCH = 64
"""Requests whose lines are made together, which is cheaper than alone: 0.1 ms at a time."""
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_log = logging.getLogger(__name__)


class AccessLog:
    """Takes records from the event loop, and writes them when the writer thread says so.

        log = AccessLog(directory / "access.jsonl")
        log.add(record)          # at each request, from the event loop
        log.flush()              # each second, from the writer thread; closes what it opens

    Nothing here raises: trouble with the disk is logged once, until it is over.
    """

    def __init__(self, path: Path, *, most_bytes: int = BYTES, files: int = FILES) -> None:
        """`path` is the newest file; older ones are `path` with .1, .2, … added."""
        self.lost = 0
        """Lines that could not be written."""
        self.trouble: str | None = None
        """Why the newest lines could not be written; `None` while all is well."""
        self._path = path
        self._most_bytes = most_bytes
        self._files = files
        self._records: list[Record] = []
        """The newest requests, without a line so far."""
        self._waiting: list[bytes] = []
        self._count = 0
        """Lines that wait."""
        self._lock = threading.Lock()
        """Held to change what waits."""

    def add(self, record: Record) -> None:
        """Have a request written with the next batch."""
        with self._lock:
            self._records.append(record)
            if len(self._records) >= BATCH:
                self._make_lines()

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            self._make_lines()
            texts, self._waiting = self._waiting, []
            count, self._count = self._count, 0
        if not texts:
            return
        try:
            self._write(b"".join(texts))
        except OSError as error:
            with self._lock:
                self.lost += count
            self._tell(f"{self._path}: requests are not logged: {error.strerror}")
        else:
            self._tell(None)

    def _make_lines(self) -> None:
        room = WAITING - self._count
        records = self._records[:room] if room > 0 else []
        self.lost += len(self._records) - len(records)
        self._records.clear()
        if records:
            self._waiting.append(lines(records))
            self._count += len(records)

    def _write(self, text: bytes) -> None:
        """Append lines, all of them or none."""
        with suppress(FileNotFoundError):
            if self._path.lstat().st_size + len(text) > self._most_bytes:
                self._rotate()
        fd = os.open(self._path, _FLAGS, 0o600)
        try:
            size = os.fstat(fd).st_size
            rest = memoryview(text)
            try:
                while rest:
                    rest = rest[os.write(fd, rest) :]
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)

    def _rotate(self) -> None:
        """Put the file aside, and let the oldest go."""
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._files))]
        for newer, older in reversed([*pairwise(names)]):
            with suppress(FileNotFoundError):
                os.replace(newer, older)

    def _tell(self, trouble: str | None) -> None:
        if trouble is not None and self.trouble is None:
            _log.warning("%s", trouble)
        elif trouble is None and self.trouble is not None:
            _log.warning("%s: requests are logged again; %d were not", self._path, self.lost)
        self.trouble = trouble


def lines(records: Iterable[Record]) -> bytes:
    """A line each: times in seconds to the microsecond, unknown ones `null`."""
    return _encoded([_line(record) for record in records])


def _line(record: Record) -> _Line:
    second, millis = divmod(int(record.at * 1000), 1000)
    queue_s, ttft_s = record.queue_s, record.ttft_s
    return _Line(
        f"{_second(second)}.{millis:03}Z",
        record.id,
        record.key or None,
        record.model or None,
        record.worker or None,
        CLASSES[record.cls],
        record.path,
        record.status,
        record.stream,
        None if queue_s is None else int(queue_s * 1e6 + 0.5) / 1e6,
        None if ttft_s is None else int(ttft_s * 1e6 + 0.5) / 1e6,
        int(record.e2e_s * 1e6 + 0.5) / 1e6,
        record.prompt,
        record.cached,
        record.generated,
        record.finish,
        int(record.gpu_s * 1e6 + 0.5) / 1e6,
        record.cost,
        record.retries,
        record.bytes_out,
        record.error,
    )


class _Line(msgspec.Struct, gc=False, rename={"cls": "class"}):
    """The fields of a line, in their order."""

    at: str
    id: str
    key: str | None
    model: str | None
    worker: str | None
    cls: str
    path: str
    status: int
    stream: bool
    queue_s: float | None
    ttft_s: float | None
    e2e_s: float | None
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    finish: str | None
    gpu_s: float | None
    cost: float
    retries: int
    bytes_out: int
    error: str | None


@lru_cache(maxsize=64)
def _second(at: int) -> str:
    """A second since the epoch as ISO 8601; requests of one second share it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_encoded = msgspec.json.Encoder().encode_lines
