"""A history file read as if it were a daemon: the same answers, and no command is taken."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event as Flag
from typing import Any, NoReturn, TypeVar

from vllm_console.answer import Answer, Question
from vllm_console.control.past import moment_of, snapshot_at
from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.history import graphs
from vllm_console.history.codec import NotAChunk
from vllm_console.history.file import APPLICATION_ID, named_columns, reading
from vllm_console.history.questions import answer
from vllm_console.history.reading import Reader
from vllm_console.history.records import (
    Revision,
    Span,
    read_audit,
    read_events,
    read_revisions,
)
from vllm_console.history.schema import STEPS, version_of
from vllm_console.history.store import reader
from vllm_console.history.subjects import Known
from vllm_console.snapshot import AuditEntry, Event, Snapshot

REFUSED = "this is a recording: nothing can be changed"
_DAY_S = 86_400.0
_MEASURED = 2
"""The schema version from which on a file holds what was measured."""
T = TypeVar("T")


class Recording:
    """One history file; every method may be called from any thread and blocks.

        recording = Recording(Path("history.sqlite"))
        Console(recording.client)

    The file is only read. Times before `end` count from there: "2h" is two hours before the last
    sample. Raises `InvalidInput` where the file is not there or is not a history file that this
    version knows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "history.sqlite" if path.is_dir() else path
        self.name = self.path.parent.name if self.path.stem == "history" else self.path.stem
        self._closing = ExitStack()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recording")
        try:
            self._reader = self._asked(self._open)
            end = self._asked(lambda: self._reader.end(time.time() + _DAY_S))
        except BaseException:
            self.close()
            raise
        if end is None:
            self.close()
            raise InvalidInput(f"{self.path}: nothing was measured in it; there is nothing to show")
        self.end = end
        """When its last sample was taken, in seconds since the epoch."""

    def client(self) -> RecordedFleet:
        """What the console talks to."""
        return RecordedFleet(self)

    def snapshot_at(self, at: float) -> Snapshot:
        """The fleet as it was."""
        return self.ask(lambda past: snapshot_at(past, at, self.end, fleet=self.name))

    def moment(self, text: str) -> float:
        """Seconds since the epoch of a time that a person wrote."""
        return moment_of(text, self.end)

    def answer(self, question: Question) -> Answer:
        """What the file says about any span; models are those of their newest revisions."""

        def read(past: Reader) -> Answer:
            with named_columns(past.connection) as connection:
                newest = {name: kept[-1] for name, kept in read_revisions(connection).items()}
            return answer(past, question, _known(newest), self.end)

        return self.ask(read)

    def ask(self, question: Callable[[Reader], T]) -> T:
        """Put a question to the file."""
        return self._asked(lambda: question(self._reader))

    def close(self) -> None:
        """Close the file."""
        self._thread.submit(self._closing.close).result()
        self._thread.shutdown()

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return self._thread.submit(question).result()
        except FileNotFoundError:
            raise InvalidInput(
                f"{self.path}: no such file; replay takes a fleet's history.sqlite"
            ) from None
        except (OSError, sqlite3.Error, NotAChunk) as error:
            raise ConsoleError(f"{self.path}: cannot be read ({error})") from None

    def _open(self) -> Reader:
        connection = self._closing.enter_context(reading(self.path))
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise InvalidInput(f"{self.path}: is not a history file of vllm-console")
        version = version_of(connection)
        if version > len(STEPS):
            raise InvalidInput(
                f"{self.path}: is of a newer vllm-console (schema {version}, this one knows "
                f"{len(STEPS)}); replay it with that version"
            )
        if version < _MEASURED:
            raise InvalidInput(f"{self.path}: is of a version that kept no measurements")
        connection.row_factory = None
        return reader(connection)


def _known(newest: Mapping[str, Revision]) -> Known:
    """What configurations say that questions need: aliases, and targets in seconds."""
    models = {name: tuple(found.config.get("aliases") or ()) for name, found in newest.items()}
    targets = {}
    for name, found in newest.items():
        slo = found.config.get("slo") or {}
        given = {what: slo.get(f"{what}_p95_s") for what in ("ttft", "itl", "e2e")}
        targets[name] = {what: target for what, target in given.items() if target is not None}
    return Known(models, targets)


class RecordedFleet:
    """The control API as the console uses it, answered by a recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._closed = Flag()

    def snapshots(self) -> Iterator[Snapshot]:
        """The end of the recording, once; then nothing new, until closed."""
        yield self._recording.snapshot_at(self._recording.end)
        self._closed.wait()

    def snapshot_at(self, moment: str) -> Snapshot:
        """The fleet as it was at a time that a person wrote."""
        return self._recording.snapshot_at(self._recording.moment(moment))

    def series(
        self,
        subjects: Sequence[str],
        metrics: Sequence[str],
        seconds: float,
        step: float,
        until: float | None = None,
    ) -> dict[str, dict[str, list[float | None]]]:
        """Graph values up to a moment, or up to the end of the recording."""
        end = self._recording.end if until is None else until
        return self._recording.ask(
            lambda past: graphs.series(past, subjects, metrics, end, seconds, step)
        )

    def events(self, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events with a number above `after`, oldest first."""

        def read(past: Reader) -> list[Event]:
            with named_columns(past.connection) as connection:
                return read_events(connection, Span(after=after, limit=limit))

        return self._recording.ask(read)

    def audit(self, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """Commands that were given, numbered above `after`, oldest first."""

        def read(past: Reader) -> list[AuditEntry]:
            with named_columns(past.connection) as connection:
                return read_audit(connection, Span(after=after, limit=limit))

        return self._recording.ask(read)

    def ask(self, question: Question) -> Answer:
        """What the file says about any span."""
        return self._recording.answer(question)

    def log(self, worker: str, offset: int | None = None, lines: int = 200) -> NoReturn:
        """A recording has no logs: raises `NotFound`."""
        raise NotFound("a recording holds no logs")

    def command(self, verb: str, **args: Any) -> NoReturn:
        """A recording takes no command: raises `ConsoleError`."""
        raise ConsoleError(REFUSED)

    def close(self) -> None:
        """End the stream; the file stays open for others."""
        self._closed.set()
