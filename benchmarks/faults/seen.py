"""The row in which, of sixteen workers, one dies, one hangs and one talks garbage."""

from __future__ import annotations

import gzip
import signal
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.clients import Clients
from benchmarks.faults.site import Site
from benchmarks.faults.table import Outcome, Row, Trials, require, spread, until
from benchmarks.faults.trees import fake_fleet, model, names
from vllm_console.launchers.processes import send
from vllm_console.snapshot import Worker
from vllm_console.ui.view import staleness

SEEN = "one dead, one hung, one garbage of 16"
SEEN_S = 3.0
GARBAGE, DEAD, HUNG = "m1-1", "m2-1", "m3-1"


def seen(root: Path) -> Outcome:
    """The picture says so within three seconds, and no total counts them."""
    garbage = root / "garbage.gz"
    garbage.write_bytes(gzip.compress(b"<html><body>proxy error</body></html>\n"))
    workers = names(16)
    models = [model(name, fake_gentle=True) for name in workers[1:]]
    models.append(model(workers[0], fake_gentle=True, fake_metrics=str(garbage)))
    trials = Trials(5)  # each kill of the same worker doubles the pause before its next start
    hangs: list[float] = []
    with fake_fleet(root, *models) as site:
        site.up()
        site.ready()
        with Clients({w: t for w, t in site.targets().items() if w not in (GARBAGE, DEAD, HUNG)}):
            until(lambda: _running(site) >= 8, 20.0, "the others work")
            for _ in trials:
                with trials.injection():
                    require("not Prometheus" in (_of(site, GARBAGE).stale_reason or ""), "garbage")
                    dead, hung = site.tree(DEAD)[0], site.tree(HUNG)[0]
                    began = time.monotonic()
                    send(dead, signal.SIGKILL)
                    send(hung, signal.SIGSTOP)
                    try:
                        _told(site, DEAD, lambda w: w.state != "ready", began)
                        trials.recovered(time.monotonic() - began)
                        _told(site, HUNG, lambda w: staleness(w) is not None, began)
                        hangs.append(time.monotonic() - began)
                        counted = {w.id: w.running for w in site.workers().values() if w.running}
                        require(not {GARBAGE, DEAD, HUNG} & counted.keys(), f"counted: {counted}")
                    finally:
                        send(hung, signal.SIGCONT)
                    site.ready()
                    until(lambda: staleness(_of(site, HUNG)) is None, 20.0, "it answers again")
    note = f"seconds until the dead one is told; the hung one after {spread(hangs, 's')}"
    return trials.outcome(SEEN, "fake", note)


ROWS: dict[str, Row] = {SEEN: seen}


def _of(site: Site, worker: str) -> Worker:
    return site.workers()[worker]


def _running(site: Site) -> int:
    return sum(worker.running or 0 for worker in site.workers().values())


def _told(site: Site, worker: str, holds: Callable[[Worker], bool], began: float) -> None:
    left = max(0.0, began + SEEN_S - time.monotonic())
    until(lambda: holds(_of(site, worker)), left, f"{worker} is told")
