"""Where snapshots come from: the client's interface, and the one thread that reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event as Flag
from threading import Thread
from typing import Any, Protocol

from vllm_console.answer import Answer, Question
from vllm_console.errors import ConsoleError
from vllm_console.snapshot import AuditEntry, Event, Snapshot
from vllm_console.ui.trends import FEWER, KEPT, METRICS, subjects_of

Series = Mapping[str, Mapping[str, Sequence[float | None]]]

BACK_OFF_S = (0.25, 0.5, 1.0, 2.0, 5.0)
"""Waits between tries to reach a daemon that is gone; the last one repeats."""
_MANY_SUBJECTS = 16
"""Subjects from which on fewer values of each trend are asked for."""


class LogPiece(Protocol):
    """A piece of a worker's log."""

    @property
    def offset(self) -> int:
        """The byte that follows it."""

    @property
    def text(self) -> str:
        """Its text."""


class FleetClient(Protocol):
    """The control API as the console uses it; every method blocks.

    Each raises `NoDaemon` when the daemon is gone and another `ConsoleError` for what it refuses.
    """

    def snapshots(self) -> Iterator[Snapshot]:
        """Snapshots as they are made; ends when the client is closed."""

    def snapshot_at(self, moment: str) -> Snapshot:
        """The fleet as it was at a time that a person wrote."""

    def series(
        self,
        subjects: Sequence[str],
        metrics: Sequence[str],
        seconds: float,
        step: float,
        until: float | None = None,
    ) -> dict[str, dict[str, list[float | None]]]:
        """Graph values by subject and metric, one a step, oldest first, `None` for a gap.

        They end `until`, in seconds since the epoch, or now.
        """

    def events(self, after: int = 0) -> list[Event]:
        """Events with a number above `after`, oldest first."""

    def audit(self, after: int = 0) -> list[AuditEntry]:
        """Commands that were given, numbered above `after`, oldest first."""

    def ask(self, question: Question) -> Answer:
        """What the stored past says."""

    def log(self, worker: str, offset: int | None = None, lines: int = 200) -> LogPiece:
        """A worker's log from a byte offset on; its last lines without one."""

    def command(self, verb: str, **args: Any) -> dict[str, Any]:
        """Ask the daemon to do something."""

    def close(self) -> None:
        """End every open stream; may be called from another thread."""


Connect = Callable[[], FleetClient]


class Reader:
    """Reads snapshots in a thread of its own and reconnects by itself.

    What it read waits in `pending` until `drain`; `notify` is called, in the reader's thread,
    whenever there is something new.
    """

    def __init__(self, connect: Connect, wait: Callable[[float], bool] | None = None) -> None:
        self._connect = connect
        self._closed = Flag()
        self._wait = wait or self._closed.wait
        self._client: FleetClient | None = None
        self._thread = Thread(target=self._run, name="snapshots", daemon=True)
        self.pending: deque[Snapshot | Series] = deque(maxlen=KEPT)
        """Snapshots, and after the first of each connection what the daemon remembers."""
        self.lost: str | None = None
        """Why no daemon answers now."""
        self.notify: Callable[[], None] = _nobody

    @property
    def started(self) -> bool:
        """Whether it has begun to read."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading; returns when the thread has ended or a second has passed."""
        self._closed.set()
        client = self._client
        if client is not None:
            client.close()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def drain(self) -> list[Snapshot | Series]:
        """All that is new since the last call, oldest first."""
        items = []
        while self.pending:
            items.append(self.pending.popleft())
        return items

    def _run(self) -> None:
        tries = 0
        while not self._closed.is_set():
            try:
                self._client = client = self._connect()
                for first, snapshot in _numbered(client.snapshots()):
                    tries, self.lost = 0, None
                    self.pending.append(snapshot)
                    self.notify()
                    if first:
                        self._remember(client, snapshot)
                self.lost = "the daemon closed the connection"
            except (ConsoleError, OSError, ValueError) as error:
                self.lost = str(error)
            if self._closed.is_set():
                return
            self.notify()
            self._wait(BACK_OFF_S[min(tries, len(BACK_OFF_S) - 1)])
            tries += 1

    def _remember(self, client: FleetClient, snapshot: Snapshot) -> None:
        """Ask once for the graphs' past; a daemon that has none leaves them empty."""
        subjects = subjects_of(snapshot)
        values = KEPT if len(subjects) <= _MANY_SUBJECTS else FEWER
        step = snapshot.interval_s
        try:
            series = client.series(subjects, METRICS, values * step, step)
        except ConsoleError:
            return
        self.pending.append(series)
        self.notify()


def _nobody() -> None:
    return None


def _numbered(snapshots: Iterator[Snapshot]) -> Iterator[tuple[bool, Snapshot]]:
    """Each snapshot with whether it is the first."""
    for number, snapshot in enumerate(snapshots):
        yield number == 0, snapshot
