"""Who asked the daemon for what, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vllm_console.control.numbered import NumberedLog, now_iso
from vllm_console.control.peer import Asker
from vllm_console.errors import ConsoleError
from vllm_console.history.account_rows import TERMS
from vllm_console.history.database import Database
from vllm_console.history.records import add_audit, read_audit
from vllm_console.snapshot import AuditEntry
from vllm_console.workers.redaction import BLANK, redact

_RECORDED = frozenset(
    {
        *("model", "worker", "revision", "digest", "workers", "count", "pid", "pids", "force"),
        *("share", "end"),
        *("name", *TERMS),
    }
)
"""Arguments whose values are written down; of any other only that it was there."""
_TEXT_MAX = 300
_ARGUMENTS_MAX = 16


class AuditLog(NumberedLog[AuditEntry]):
    """Every command that reached the daemon, refused and failed ones too."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], str] = now_iso,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(database, read_audit, add_audit, clock)
        self._monotonic = monotonic

    @contextmanager
    def record(self, asker: Asker, verb: str, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Carry out a command inside this; how it ends is recorded, and goes on to the caller."""
        at, begun, outcome = self._clock(), self._monotonic(), "ok"
        try:
            yield
        except ConsoleError as error:
            outcome = str(error)
            raise
        except Exception as error:
            outcome = f"internal error: {error!r}"
            raise
        except BaseException:  # cancelled
            outcome = "not finished: the daemon ended"
            raise
        finally:
            entry = AuditEntry(
                seq=self._next(),
                at=at,
                client=asker.client,
                verb=verb[:_TEXT_MAX],
                arguments=recorded(arguments),
                outcome=_line(outcome),
                seconds=round(self._monotonic() - begun, 3),
                uid=asker.uid,
                user=asker.user,
                pid=asker.pid,
            )
            self._append(entry)


def recorded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a command as they may be written down."""
    kept = list(arguments.items())[:_ARGUMENTS_MAX]
    return {
        _line(name): _value(value) if name in _RECORDED else BLANK
        for name, value in kept
        if value is not None or name in TERMS  # of which none is a wish too
    }


def _value(value: Any) -> Any:
    if value is None:
        return "none"
    if isinstance(value, (bool, int, float)):
        return value
    return _line(value if isinstance(value, str) else str(value))


def _line(text: str) -> str:
    return redact(" ".join(text.split()))[:_TEXT_MAX]
