"""Usage on its way to gateway.sqlite, and changed keys on their way from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vllm_console.errors import ConsoleError
from vllm_console.gateway.keyring import Keyring
from vllm_console.gateway.measures import GONE, Record
from vllm_console.history.account_rows import Day, KeyRow, Use, day_of, keys_in
from vllm_console.history.accounts import Accounts, accounts_read

LOOK_S = 0.25
"""Seconds between two looks for changed keys: one takes effect well within a second."""
WRITE_S = 1.0
"""Seconds between two writes of usage: what a `kill -9` may cost."""
_RETRY_S = 5.0
_DAY_S = 86400


class Ledger:
    """Counts who used what, in memory at once and in the file each second.

    `record` belongs to the event loop's thread; `look`, `write` and `close` to one other thread;
    `begin` to any, before both. Trouble with the file stops nothing: the keys that are known go on,
    and what was used waits in memory, at most one line a key, model and day.
    """

    def __init__(
        self,
        path: Path,
        keyring: Keyring,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._keyring = keyring
        self._accounts = Accounts(path)
        self._monotonic = monotonic
        self._wall = wall
        self._pending: dict[tuple[Day, int, str], Use] = {}
        self._lock = threading.Lock()
        self._today = (-1, "")
        self._next_look = 0.0
        self._no_usage: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why keys or usage cannot be read or written now, one line; `None` while all is well."""
        return self._keyring.trouble or self._no_usage

    def begin(self) -> None:
        """Give the keyring the stored keys, before the first request."""
        rows = self.look()
        self._accounts.close()
        if rows is not None:
            self._keyring.replace(rows)

    def record(self, record: Record) -> None:
        """Count a request that is over; one that showed no valid key counts for nobody."""
        number = self._keyring.number(record.key)
        if number is None:
            return
        day = int(record.at) // _DAY_S
        if day != self._today[0]:
            self._today = (day, day_of(record.at))
        whose = (self._today[1], number, record.model)
        with self._lock:
            use = self._pending.get(whose)
            if use is None:
                use = self._pending[whose] = Use()
            use.requests += 1
            if record.status != GONE and (record.status >= 400 or record.error is not None):
                use.failed += 1
            use.prompt += record.prompt
            use.cached += record.cached
            use.generated += record.generated
            use.gpu_seconds += record.gpu_s
            if record.cost:
                use.cost = (use.cost or 0.0) + record.cost

    def look(self) -> Sequence[KeyRow] | None:
        """The keys if they changed since the last look, for `Keyring.replace`; else `None`."""
        now, at = self._monotonic(), self._wall()
        if now < self._next_look:
            return None
        try:
            rows = self._accounts.keys(at) if self._accounts.changed() else None
        except ConsoleError as error:
            self._keyring.trouble = str(error)
            self._next_look = now + _RETRY_S
            return self._only_read(at)
        self._keyring.trouble = None
        return rows

    def write(self) -> None:
        """Write what was used since the last time that succeeded."""
        with self._lock:
            batch, self._pending = self._pending, {}
        if not batch:
            return
        try:
            self._accounts.add_usage(batch, self._wall())
        except ConsoleError as error:
            self._no_usage = str(error)
            self._put_back(batch)
        else:
            self._no_usage = None

    def close(self) -> None:
        """Write what is left and let go of the file."""
        self.write()
        self._accounts.close()

    def _only_read(self, at: float) -> Sequence[KeyRow] | None:
        """The keys of a file that can be read though not written."""
        with (
            suppress(ConsoleError, FileNotFoundError),
            accounts_read(self._accounts.path) as connection,
        ):
            return keys_in(connection, at)
        return None

    def _put_back(self, batch: dict[tuple[Day, int, str], Use]) -> None:
        with self._lock:
            for whose, use in self._pending.items():
                if (earlier := batch.get(whose)) is None:
                    batch[whose] = use
                else:
                    earlier.add(use)
            self._pending = batch
