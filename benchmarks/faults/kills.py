"""Rows in which a process of a running fleet is killed or stopped."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.clients import Clients
from benchmarks.faults.site import Member, Site, all_gone, lives
from benchmarks.faults.table import NotMet, Outcome, Row, Trials, require, spread, until
from benchmarks.faults.trees import fake_fleet, model, names
from vllm_console.launchers.processes import send

DAEMON_KILLED = "daemon kill -9 under load, 8 workers"
API_SERVER_KILLED = "API server kill -9"
ENGINE_KILLED = "engine process kill -9"
ENGINE_STOPPED = "engine process SIGSTOP, on_stall = restart"
UNLOAD_BOOTING = "unload while booting"
SHIM_KILLED = "shim kill -9 under load"

TREE_GONE_S = 3.0
STALL_AFTER_S = 3
STALL_SLACK_S = 3.0
"""The scrape that sees the last progress, the one that reaches the limit, and a tick."""
AT_ONCE = 4
_ADOPTED = re.compile(r"(\d+) adopted in (\d+) ms")


def daemon_killed(root: Path) -> Outcome:
    """The trees serve on without a daemon, and the next one finds all of them."""
    workers = names(8)
    trials = Trials(50)
    adopting: list[float] = []
    with fake_fleet(root, *(model(name, fake_gentle=True) for name in workers)) as site:
        site.up()
        site.ready()
        before = site.pids()
        with Clients(site.targets()) as clients:
            for _ in trials:
                with trials.injection():
                    began = time.monotonic()
                    site.kill_daemon()
                    site.up()
                    site.ready()
                    trials.recovered(time.monotonic() - began)
                    require(site.pids() == before, f"pids: {before} → {site.pids()}")
                    adopting.append(_adoption_ms(site, len(workers)))
        counted = clients.counted
        if counted.lost:
            trials.broken.append(f"requests lost: {dict(counted.reasons)}")
    note = f"pids unchanged; adoption itself {spread(adopting, 'ms')}"
    return trials.outcome(DAEMON_KILLED, "fake", note, lost=counted.lost, sent=counted.sent)


def api_server_killed(root: Path) -> Outcome:
    """No process of the tree is left within three seconds, and the worker starts again."""
    trials = Trials(20, at_once=AT_ONCE)
    gone: list[float] = []
    with _busy(root) as site:
        for _ in trials:
            with trials.injection():
                trees = _all_trees(site)
                began = _signal([tree[0] for tree in trees], signal.SIGKILL)
                gone += _gone(trees, began)
                trials.recovered(_ready_again(site, trees, began))
        site.verb("down")
        site.nothing_left()
    return trials.outcome(API_SERVER_KILLED, "fake", f"whole tree gone in {spread(gone)}")


def engine_killed(root: Path) -> Outcome:
    """The server follows its engine with exit code 0, which nobody takes for a success."""
    trials = Trials(20, at_once=AT_ONCE)
    gone: list[float] = []
    with _busy(root) as site:
        for _ in trials:
            with trials.injection():
                trees = _all_trees(site)
                began = _signal([tree[1] for tree in trees], signal.SIGKILL)
                gone += _gone(trees, began)
                causes = _causes(site)
                require(causes == {"engine-died"}, f"diagnosed as {causes}")
                trials.recovered(_ready_again(site, trees, began))
    return trials.outcome(ENGINE_KILLED, "fake", f"engine-died; whole tree gone in {spread(gone)}")


def engine_stopped(root: Path) -> Outcome:
    """Health and metrics go on answering: only the count of iterations tells."""
    keys = (f'stall_after = "{STALL_AFTER_S}s"', 'on_stall = "restart"')
    workers = names(AT_ONCE)
    trials = Trials(8, at_once=AT_ONCE)
    seen: list[float] = []
    with fake_fleet(root, *(model(name, *keys) for name in workers), drain="0s") as site:
        site.up()
        site.ready()
        for _ in trials:
            with trials.injection(), Clients(site.targets(), tokens=10_000):
                trees = _all_trees(site)
                until(lambda: _running(site) == len(workers), 5.0, "a request runs on each worker")
                began = _signal([tree[1] for tree in trees], signal.SIGSTOP)
                within = STALL_AFTER_S + STALL_SLACK_S
                seen.append(until(lambda: _all_left_ready(site), within, "seen as stalled"))
                require(
                    sum("stalled: requests run" in said for said in site.events())
                    >= len(seen) * len(workers),
                    "an event says stalled",
                )
                until(all_gone([m for tree in trees for m in tree]), 20.0, "the old trees are gone")
                trials.recovered(_ready_again(site, trees, began))
    note = f"stall_after {STALL_AFTER_S} s, seen after {spread(seen)}"
    return trials.outcome(ENGINE_STOPPED, "fake", note)


def unload_while_booting(root: Path) -> Outcome:
    """vLLM swallows SIGTERM while its engine boots: it is killed after a short grace."""
    workers = names(AT_ONCE)
    trials = Trials(20, at_once=AT_ONCE)
    booting = (model(name, "autostart = false", fake_boot_s=30.0) for name in workers)
    with fake_fleet(root, *booting) as site:
        site.up()
        for number in trials:
            with trials.injection():
                for name in workers:
                    site.command("load", model=name)
                until(lambda: len(_trees(site)) == len(workers), 10.0, "every worker boots")
                time.sleep(0.05 * number)  # each round at another instant of the boot
                trees = _trees(site)
                began = time.monotonic()
                for name in workers:
                    site.command("unload", model=name)
                until(site.idle, 15.0, "every worker is unloaded")
                require(all_gone([m for tree in trees for m in tree])(), "the trees are gone")
                site.nothing_left(within_s=0.5)
                trials.recovered(time.monotonic() - began)
    return trials.outcome(UNLOAD_BOOTING, "fake", "nothing left")


def shim_killed(root: Path) -> Outcome:
    """A worker serves on without its shim, and is still unloaded to its last process."""
    workers = names(AT_ONCE)
    trials = Trials(20, at_once=AT_ONCE)
    lost = sent = 0
    with fake_fleet(root, *(model(name) for name in workers)) as site:
        site.up()
        for number in trials:
            with trials.injection():
                for name in workers:
                    site.command("load", model=name)
                site.ready()
                pids, trees = site.pids(), _all_trees(site)
                with Clients(site.targets()) as clients:
                    shims = [shim for name in workers if (shim := site.shim(f"{name}-1"))]
                    require(len(shims) == len(workers), "every worker has a shim")
                    _signal(shims, signal.SIGKILL)
                    until(all_gone(shims), 5.0, "the shims are gone")
                    if number % 2:
                        site.kill_daemon()
                        site.up()
                        site.ready()
                    until(lambda: clients.counted.completed >= len(workers), 10.0, "they serve on")
                    require(site.pids() == pids, f"pids: {pids} → {site.pids()}")
                lost, sent = lost + clients.counted.lost, sent + clients.counted.sent
                require(not clients.counted.lost, f"requests lost: {dict(clients.counted.reasons)}")
                began = time.monotonic()
                for name in workers:
                    site.command("unload", model=name)
                until(all_gone([m for tree in trees for m in tree]), 20.0, "unload leaves nothing")
                site.nothing_left(within_s=5.0)
                trials.recovered(time.monotonic() - began)
                until(site.idle, 10.0, "every worker is forgotten")
    note = "serves on; seconds are those of `unload`; every other round with a new daemon"
    return trials.outcome(SHIM_KILLED, "fake", note, lost=lost, sent=sent)


ROWS: dict[str, Row] = {
    DAEMON_KILLED: daemon_killed,
    API_SERVER_KILLED: api_server_killed,
    ENGINE_KILLED: engine_killed,
    ENGINE_STOPPED: engine_stopped,
    UNLOAD_BOOTING: unload_while_booting,
    SHIM_KILLED: shim_killed,
}


def _busy(root: Path) -> Site:
    """Workers whose engine processes ignore SIGTERM; up and ready."""
    site = fake_fleet(root, *(model(name) for name in names(AT_ONCE)))
    site.up()
    site.ready()
    return site


def _adoption_ms(site: Site, workers: int) -> float:
    """What the daemon says its adoption took; raises `NotMet` when it did not adopt all."""
    said = next(text for text in reversed(site.events()) if "started" in text)
    found = _ADOPTED.search(said)
    if found is None or int(found[1]) != workers:
        raise NotMet(f"not {workers} adopted: {said}")
    return float(found[2])


def _trees(site: Site) -> list[list[Member]]:
    """The process trees of all workers that have three processes by now."""
    found = [site.tree(worker) for worker in site.workers()]
    return [tree for tree in found if len(tree) >= 3]


def _all_trees(site: Site) -> list[list[Member]]:
    """The process trees of all workers, whole; waits a moment for those that still fork."""
    until(lambda: len(_trees(site)) == AT_ONCE, 5.0, "every worker has a whole tree")
    return _trees(site)


def _signal(members: Sequence[Member], number: signal.Signals) -> float:
    """Signals these processes; the monotonic time at which it began."""
    began = time.monotonic()
    for member in members:
        send(member, number)
    return began


def _gone(trees: Sequence[Sequence[Member]], began: float) -> list[float]:
    """Seconds until nothing of each tree was left; raises `NotMet` beyond the limit."""
    took: dict[int, float] = {}

    def none_left() -> bool:
        for number, tree in enumerate(trees):
            if number not in took and not any(lives(member) for member in tree):
                took[number] = time.monotonic() - began
        return len(took) == len(trees)

    until(none_left, TREE_GONE_S, "the whole tree is gone")
    return list(took.values())


def _ready_again(site: Site, old: Sequence[Sequence[Member]], began: float) -> float:
    """Seconds until every worker is ready as a new process, then restarted so that its record of
    failures is forgotten and the next injection meets no longer back-off."""
    before = {tree[0][0] for tree in old}

    def are() -> bool:
        seen = site.workers().values()
        return len(seen) == len(old) and all(
            w.state == "ready" and w.pid not in before for w in seen
        )

    until(are, site.ready_s, "ready again as a new process")
    took = time.monotonic() - began
    pids = {worker.pid for worker in site.workers().values()}
    for name in site.models():
        site.command("restart", model=name)
    until(lambda: not pids & {w.pid for w in site.workers().values()}, 20.0, "restarted")
    site.ready()
    return took


def _running(site: Site) -> float:
    return sum(worker.running or 0.0 for worker in site.workers().values())


def _all_left_ready(site: Site) -> bool:
    states = [worker.state for worker in site.workers().values()]
    return bool(states) and "ready" not in states


def _causes(site: Site) -> set[str]:
    """The causes of the failures of all workers."""

    def all_failed() -> bool:
        return all(worker.failure is not None for worker in site.workers().values())

    until(all_failed, 5.0, "every worker has a failure")
    return {str(w.failure.cause) for w in site.workers().values() if w.failure is not None}
