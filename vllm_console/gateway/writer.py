"""The gateway's second thread: everything that waits for a disk."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vllm_console.gateway.access_log import AccessLog
from vllm_console.gateway.ledger import LOOK_S, WRITE_S, Ledger
from vllm_console.gateway.place import write_table
from vllm_console.gateway.table import Table
from vllm_console.history.account_rows import KeyRow

LOG_BYTES = 4 << 20
"""Bytes from which gateway.log loses its older part."""
LOG_KEPT = 1 << 20

_log = logging.getLogger(__name__)


class Writer(threading.Thread):
    """Looks for changed keys, and writes usage, the access log and the routing table."""

    def __init__(
        self,
        directory: Path,
        ledger: Ledger,
        access: AccessLog,
        keys_changed: Callable[[Sequence[KeyRow]], object],
    ) -> None:
        """`keys_changed` is called in this thread."""
        super().__init__(name="writer", daemon=True)
        self.table: Table | None = None
        """The newest table, to be kept; set by anybody."""
        self._directory = directory
        self._ledger = ledger
        self._access = access
        self._keys_changed = keys_changed
        self._end = threading.Event()
        self._kept: Table | None = None
        self._trouble: str | None = None

    def run(self) -> None:
        """Look and write until `finish`."""
        written = 0.0
        while not self._end.wait(LOOK_S):
            try:
                if (rows := self._ledger.look()) is not None:
                    self._keys_changed(rows)
                if time.monotonic() - written >= WRITE_S:
                    written = time.monotonic()
                    self._write()
            except Exception:
                _log.exception("not all could be written")
        self._write()
        self._ledger.close()

    def finish(self) -> None:
        """Have the rest written, and end."""
        self._end.set()
        self.join()

    def _write(self) -> None:
        self._ledger.write()
        self._access.flush()
        table = self.table
        if table is not None and table is not self._kept:
            self._kept = table
            try:
                write_table(self._directory, table)
            except OSError as error:
                self._tell(f"the routing table cannot be kept: {error.filename}: {error.strerror}")
            else:
                self._trouble = None
        _shorten(self._directory / "gateway.log")

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("%s", trouble)


def _shorten(path: Path) -> None:
    """Drop the older part of a log that has grown long; who appends to it goes on."""
    with suppress(OSError):
        if path.stat().st_size <= LOG_BYTES:
            return
        with path.open("r+b") as file:
            file.seek(-LOG_KEPT, os.SEEK_END)
            newest = file.read().partition(b"\n")[2]
            file.seek(0)
            file.write(newest)
            file.truncate()
