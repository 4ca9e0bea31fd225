"""A process that records as the daemon does, to be killed or starved by a test."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import sys
from pathlib import Path

from tests.unit.history.past import EPOCH, sample
from vllm_console.history.database import Database
from vllm_console.history.reading import covered
from vllm_console.history.store import Store

_W = "worker/w"


class _Clock:
    def __init__(self, at: float) -> None:
        self.at = at


def _store(path: Path, clock: _Clock, said: list[str]) -> tuple[Database, Store]:
    database = Database(path, retry_s=0.02)
    store = Store(database, clock=lambda: clock.at, wall=lambda: EPOCH + clock.at)
    database.start(lambda level, text: said.append(text))
    return database, store


def _newest(path: Path) -> float:
    """Where the clock of the last writer stood: it says nothing, the file does."""
    database = Database(path)
    store = Store(database)
    try:
        window = store.ask(lambda r: r.window(_W, 0.0, EPOCH * 2)).result()
    except Exception:
        return 0.0
    finally:
        store.close()
    return 0.0 if window is None else round(window.new.at - EPOCH)


def ticks(path: Path) -> None:
    """Record for ever; each second that is in the file is a line on stdout."""
    clock = _Clock(_newest(path))
    database, store = _store(path, clock, [])
    while True:
        clock.at += 1
        store.record(_W, sample(clock.at, 3 * clock.at))
        store.tick()
        database.flush(10.0)
        os.write(1, b"%d\n" % clock.at)


def full(path: Path) -> None:
    """Record while files may not grow and after; says the trouble, and what share is there."""
    clock, said = _Clock(0.0), list[str]()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    database, store = _store(path, clock, said)

    def tick() -> None:
        clock.at += 1
        store.record(_W, sample(clock.at, 3 * clock.at))
        store.tick()

    tick()
    database.flush(10.0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    while not said and clock.at < 100_000:
        tick()
        if clock.at % 20 == 0:
            database.flush(0.5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    database.flush(10.0)
    for _ in range(3):
        tick()
        database.flush(10.0)
    window = store.ask(lambda r: r.window(_W, EPOCH + 1, EPOCH + clock.at)).result()
    assert window is not None
    store.close()
    database.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert covered(window, EPOCH + 1, EPOCH + clock.at) > 0.5
    share = (window.delta("generation_tokens") or 0) / (3 * (clock.at - 1))
    os.write(1, f"{said[0]}\n{share}\n".encode())


if __name__ == "__main__":
    where = Path(sys.argv[2]) / "history.sqlite"
    {"ticks": ticks, "full": full}[sys.argv[1]](where)
