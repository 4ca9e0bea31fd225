"""One SQLite file a fleet, written by one thread; whatever happens to it, the fleet goes on."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vllm_console.history import file
from vllm_console.history.schema import STEPS, Step

Write = Callable[[sqlite3.Connection], object]
"""Runs in the writer thread inside a transaction of its own; it neither commits nor rolls back."""
Tell = Callable[[str, str], None]
"""Takes the level and text of an event; called in the writer thread."""

_KEEP = 10_000
"""Writes that wait at most, while the disk takes none."""
_RETRY_S = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Queued:
    write: Write
    done: Callable[[], None] | None


class Database:
    """Takes writes from any thread without ever blocking, and writes them in order.

    `start` begins the writer thread, which owns the only read-write connection; writes that came
    before wait for it. While the file cannot be written, `trouble` says why, the newest writes
    wait up to a bound, and are written once it can be. A damaged file is moved aside and a new
    one begun; a file of a newer version is left as it is and nothing is recorded.
    """

    def __init__(
        self,
        path: Path,
        *,
        steps: Sequence[Step] = STEPS,
        keep: int = _KEEP,
        retry_s: float = _RETRY_S,
    ) -> None:
        self.path = path
        self.trouble: str | None = None
        """Why nothing is recorded now, as one line; `None` while all is well."""
        self._steps = steps
        self._keep = keep
        self._retry_s = retry_s
        self._waiting: deque[_Queued] = deque()
        self._lost = 0
        self._given_up = False
        self._closing = False
        self._wake = threading.Condition()
        self._seeds: list[Write] = []
        self._tell: Tell = _nobody
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    def start(self, tell: Tell | None = None) -> None:
        """Begin to write; `tell` hears what happens to the file."""
        self._tell = tell or _nobody
        self._thread = threading.Thread(target=self._run, name="history-writer", daemon=True)
        self._thread.start()

    def write(self, write: Write, done: Callable[[], None] | None = None) -> None:
        """Have this written; `done` is called in the writer thread once it has been committed.

        Returns at once. With too many waiting the oldest is given up, and counted.
        """
        with self._wake:
            if self._given_up or self._closing:
                return
            if len(self._waiting) >= self._keep:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(_Queued(write, done))
            self._wake.notify()

    def seed(self, write: Write) -> None:
        """Have this written first whenever a file is begun: what must not be lost with the last."""
        self._seeds.append(write)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection for this thread.

        Raises `FileNotFoundError` where there is no file, `sqlite3.Error` where it is not readable.
        """
        with file.reading(self.path) as connection:
            yield connection

    def flush(self, timeout: float) -> bool:
        """Wait, in seconds, until all that was given so far is written; `False` when it is not."""
        written = threading.Event()
        with self._wake:
            self._waiting.append(_Queued(lambda connection: None, written.set))
            self._wake.notify()
        return written.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what still waits, if the disk takes it, and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    # -- the writer thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (queued := self._next()) is not None or not self._closing:
                if not self._carried_out(queued) and not self._pause():
                    break
        finally:
            self._disconnect()

    def _next(self) -> _Queued | None:
        """The oldest write, which stays in the queue until it is done; `None` at the end."""
        with self._wake:
            if self._connection is not None:  # else the file is opened before a write comes
                self._wake.wait_for(lambda: self._waiting or self._closing)
            return self._waiting[0] if self._waiting else None

    def _carried_out(self, queued: _Queued | None) -> bool:
        """Whether the file took it; what a file can never take counts as taken."""
        try:
            self._connect()
            if queued is not None:
                self._commit(queued.write)
        except file.Unusable as error:
            self._give_up(str(error))
            return False
        except file.Damaged as error:
            return self._begin_anew(str(error))
        except sqlite3.Error as error:
            if file.is_damage(error):
                return self._begin_anew(str(error))
            if _is_ours(error):
                _log.error("a record could not be written", exc_info=error)
            else:
                self._stop_for(str(error))
                return False
        except OSError as error:
            self._stop_for(error.strerror or str(error))
            return False
        except Exception as error:
            _log.error("a record could not be written", exc_info=error)
        if queued is not None or not self._waiting:  # that a file opens does not mean it takes more
            self._well()
        if queued is not None:
            self._finished(queued)
        return True

    def _connect(self) -> None:
        if self._connection is not None and file.identity(self.path) == self._identity:
            return
        if self._connection is not None:
            self._disconnect()
            if file.identity(self.path) is None:
                file.remove_companions(self.path)
            self._tell("warn", f"{self.path}: was taken away while in use; a new one is begun")
        connection, new = file.open_to_write(self.path, self._steps)
        self._connection, self._identity = connection, file.identity(self.path)
        if new:
            for write in self._seeds:
                self._commit(write)

    def _commit(self, write: Write) -> None:
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            write(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # the error that led here is the one to tell
                    connection.execute("ROLLBACK")
            raise

    def _finished(self, queued: _Queued) -> None:
        with self._wake:
            if self._waiting and self._waiting[0] is queued:
                self._waiting.popleft()
        if queued.done is not None:
            queued.done()

    def _begin_anew(self, why: str) -> bool:
        """Move the damaged file aside; the next turn begins a new one."""
        self._disconnect()
        try:
            aside = file.move_aside(self.path)
        except OSError as error:
            self._stop_for(f"damaged, and cannot be moved aside: {error.strerror}")
            return False
        self._tell(
            "crit",
            f"{self.path}: was damaged ({why}) and is begun anew; the old one is {aside.name}, "
            f"`sqlite3 {aside.name} .recover` reads what is left of it",
        )
        return True

    def _stop_for(self, why: str) -> None:
        self._disconnect()
        first = self.trouble is None
        self.trouble = f"{self.path}: nothing is recorded ({why}); all else goes on"
        if first:
            self._tell("crit", self.trouble)

    def _well(self) -> None:
        if self.trouble is None and not self._lost:
            return
        said = ["is written again"] if self.trouble else []
        self.trouble = None
        with self._wake:
            lost, self._lost = self._lost, 0
        if lost:
            said.append(f"{lost} records were lost")
        self._tell("warn" if lost else "ok", f"{self.path}: {'; '.join(said)}")

    def _give_up(self, why: str) -> None:
        with self._wake:
            self._given_up = True
            self._waiting.clear()
        self.trouble = why
        self._tell("crit", why)

    def _pause(self) -> bool:
        """Wait before the next try; `False` when there shall be none."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing, None if self._given_up else self._retry_s)
            return not self._closing

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None


def _is_ours(error: sqlite3.Error) -> bool:
    """Whether the mistake is in the write, not in the file or the disk."""
    code = getattr(error, "sqlite_errorcode", None)
    ours = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
    return code is None or code & 0xFF in (*ours, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE)


def _nobody(level: str, text: str) -> None:
    """Nobody listens."""
