"""Rows on real vLLM: a fleet of one or two tiny workers, hurt as the fake ones are.

A start takes 10 to 30 seconds, so there are few injections a row and at most two workers at once.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.faults.clients import Clients
from benchmarks.faults.diagnoses import ENV, QUICK, diagnoses, titled
from benchmarks.faults.site import Member, Site, all_gone, identities
from benchmarks.faults.table import NotMet, Outcome, Row, Trials, require, until
from vllm_console.launchers.processes import send
from vllm_console.snapshot import Worker
from vllm_console.workers.startup import STAGES

ENGINE = "vLLM"
READY_S = 180.0
GONE_S = 3.0
"""Within this nothing of a tree is left whose API server was killed, or that was idle."""
STALL_AFTER_S = 5.0
STALL_SLACK_S = 2.5
"""The scrape that shows the last step, the one that is a second late, and a look from here."""
STREAMS = 8
CORE = "VLLM::EngineCore"


def fleet(
    *names: str,
    size: str = "small",
    env: Mapping[str, str] | None = None,
    **keys: Any,
) -> str:
    """A fleet file of models with a quick start; `env` and `keys` are those of every model."""
    shared = {"engine": "cpu", "gpus": 0, "source": f"tiny:{size}", **keys}
    lines = ["[fleet]", 'name = "faults"', "[gateway]", "enabled = false"]
    for name in names:
        lines += [f"[models.{name}]", *_assigned(shared)]
        lines += [f"[models.{name}.options]", *_assigned(QUICK)]
        lines += [f"[models.{name}.env]", *_assigned({**ENV, **(env or {})})]
    return "\n".join(lines) + "\n"


def _assigned(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]


def _core(site: Site, worker: str) -> Member:
    """The engine process of a worker."""
    tree = site.tree(worker)
    (core,) = identities([titled([pid for pid, _ in tree], CORE)])
    return core


# --- what is killed ------------------------------------------------------------------------------


def daemon_killed(directory: Path) -> Outcome:
    """kill -9 of the daemon while streams are open: nobody notices."""
    trials = Trials(50)
    adopted: list[str] = []
    with Site(directory, fleet("one", "two"), ready_s=READY_S) as site:
        site.up()
        site.ready()
        pids = site.pids()
        with Clients(site.targets(), streams=4, tokens=200) as clients:
            for _ in trials:
                with trials.injection():
                    _flow_on(clients)
                    began = time.monotonic()
                    site.kill_daemon()
                    site.up()
                    site.ready()
                    trials.recovered(time.monotonic() - began)
                    require(site.pids() == pids, f"pids stay: {pids}, now {site.pids()}")
                    adopted += [text for text in site.events() if "adopted" in text][-1:]
        counted = clients.counted
    if counted.lost:
        trials.broken.append(f"requests lost: {dict(counted.reasons)}")
        trials.survived = 0
    return trials.outcome(
        "daemon kill -9 under load",
        ENGINE,
        f"2 workers, 8 streams, pids unchanged; {adopted[-1] if adopted else ''}",
        lost=counted.lost,
        sent=counted.sent,
    )


def server_killed(directory: Path) -> Outcome:
    """kill -9 of the API server: its EngineCore does not outlive it, and it starts again."""
    trials, gone = Trials(3), []
    with Site(directory, fleet("one"), ready_s=READY_S) as site:
        site.up()
        site.ready()
        for _ in trials:
            with trials.injection():
                tree = site.tree("one-1")
                began = time.monotonic()
                send(tree[0], signal.SIGKILL)
                gone.append(until(all_gone(tree), GONE_S, "the whole tree is gone"))
                _comes_back(site, tree)
                trials.recovered(time.monotonic() - began)
    note = f"tree gone in {_most(gone)}; s to ready again"
    return trials.outcome("API server kill -9", ENGINE, note)


def core_killed(directory: Path) -> Outcome:
    """kill -9 of EngineCore: vLLM exits 0 by itself, and that is called engine-died."""
    trials, gone = Trials(3), []
    with Site(directory, fleet("one"), ready_s=READY_S) as site:
        site.up()
        site.ready()
        for _ in trials:
            with trials.injection():
                tree, core = site.tree("one-1"), _core(site, "one-1")
                told = len(_diagnosed(site, "engine-died"))
                began = time.monotonic()
                send(core, signal.SIGKILL)
                gone.append(until(all_gone(tree), 15.0, "the whole tree is gone"))
                _comes_back(site, tree)
                trials.recovered(time.monotonic() - began)
                require(len(_diagnosed(site, "engine-died")) > told, "diagnosed as engine-died")
    note = f"tree gone in {_most(gone)}, engine-died; s to ready again"
    return trials.outcome("EngineCore kill -9", ENGINE, note)


def core_stopped(directory: Path) -> Outcome:
    """SIGSTOP of EngineCore under a request: /health goes on saying 200, the counters tell."""
    trials, seen = Trials(2), []
    toml = fleet("one", stall_after=f"{STALL_AFTER_S:g}s", on_stall="restart", drain_timeout="5s")
    with Site(directory, toml, ready_s=READY_S) as site:
        site.up()
        site.ready()
        for _ in trials:
            with trials.injection():
                tree, core = site.tree("one-1"), _core(site, "one-1")
                ((url, model),) = site.targets().values()
                asked = threading.Thread(target=_stream, args=(url, model, 1500), daemon=True)
                asked.start()
                until(lambda: (_worker(site).running or 0) > 0, 15.0, "a request runs")
                began = time.monotonic()
                send(core, signal.SIGSTOP)
                limit = STALL_AFTER_S + STALL_SLACK_S
                until(partial(_state_is, site, "stalled", "stopping"), limit, "seen as stalled")
                seen.append(time.monotonic() - began)
                _comes_back(site, tree)
                trials.recovered(time.monotonic() - began)
                require(all_gone(tree)(), "nothing of the stopped tree is left")
                asked.join(30.0)
    note = f"stall_after {STALL_AFTER_S:g} s: seen after {_most(seen)}; s to ready again"
    return trials.outcome("EngineCore SIGSTOP", ENGINE, note)


# --- what is asked to end ------------------------------------------------------------------------


def unloaded_while_booting(directory: Path) -> Outcome:
    """`unload` at several instants of a boot, in which vLLM swallows SIGTERM: nothing is left."""
    instants = ("import", "config", "weights", "kv-cache", "serving")
    trials, stopped = Trials(len(instants)), []
    with Site(directory, fleet("one", autostart=False), ready_s=READY_S) as site:
        site.up()
        for number in trials:
            with trials.injection():
                at = instants[number % len(instants)]
                site.verb("load", "one", "--no-wait")
                until(partial(_reached, site, at), READY_S, f"the boot reaches {at}")
                began = time.monotonic()
                site.verb("unload", "one")
                trials.recovered(time.monotonic() - began)
                stopped.append(f"{at} {trials.recovery_s[-1]:.1f}")
                site.nothing_left()
    return trials.outcome("unload while it boots", ENGINE, f"s to stopped: {', '.join(stopped)}")


def idle_stopped(directory: Path) -> Outcome:
    """`unload` of an idle worker, made of two processes as in the fleet that ships."""
    trials = Trials(6)
    toml = fleet("one", "two", env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, autostart=False)
    with Site(directory, toml, ready_s=READY_S) as site:
        site.up()
        for number in trials:
            model = ("one", "two")[number % 2]
            with trials.injection():
                if model == "one":
                    site.verb("load", "one", "--no-wait")
                    site.verb("load", "two", "--no-wait")
                    site.ready("one-1", "two-1")
                tree = site.tree(f"{model}-1")
                began = time.monotonic()
                site.verb("unload", model)
                took = time.monotonic() - began
                trials.recovered(took)
                require(all_gone(tree)(), "nothing of the tree is left")
    if trials.recovery_s and statistics.median(trials.recovery_s) > GONE_S:
        trials.broken.append(f"the median is not within {GONE_S:g} s")
        trials.survived = 0
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    note = f"from `unload` to its return; most of it is the CPU of vLLM's own teardown; {load}"
    return trials.outcome("stop of an idle worker", ENGINE, note)


def drained(directory: Path) -> Outcome:
    """`unload` with streams open: every one of them completes, then the worker goes."""
    trials, sent, lost, late = Trials(2), 0, 0, []
    toml = fleet("one", size="medium", drain_timeout="60s", autostart=False)
    with Site(directory, toml, ready_s=READY_S) as site:
        site.up()
        for _ in trials:
            with trials.injection():
                site.verb("load", "one")
                tree = site.tree("one-1")
                ((url, model),) = site.targets().values()
                with ThreadPoolExecutor(STREAMS + 1) as pool:
                    streams = [pool.submit(_stream, url, model, 900) for _ in range(STREAMS)]
                    until(lambda: _worker(site).running == STREAMS, 15.0, "8 requests run")
                    began = time.monotonic()
                    site.verb("unload", "one", "--no-wait")
                    until(partial(_state_is, site, "draining", "stopping"), 5.0, "drains")
                    open_then = sum(not stream.done() for stream in streams)
                    late.append(pool.submit(_stream, url, model, 20).result(60.0))
                    answers = [stream.result(90.0) for stream in streams]
                sent += STREAMS
                lost += sum(answer != "complete" for answer in answers)
                require(open_then == STREAMS, f"{STREAMS} streams open at the unload: {open_then}")
                require(set(answers) == {"complete"}, f"all streams complete: {answers}")
                require(late[-1] != "hung", "a request during the drain is served or refused")
                until(all_gone(tree), 15.0, "the worker goes once they are done")
                trials.recovered(time.monotonic() - began)
                site.nothing_left()
    note = f"a request during the drain: {', '.join(dict.fromkeys(late))}; s from unload to gone"
    return trials.outcome("drain with 8 streams open", ENGINE, note, lost=lost, sent=sent)


# --- looking -------------------------------------------------------------------------------------


def _worker(site: Site) -> Worker:
    """The only worker; raises `NotMet` when there is none."""
    workers = site.workers()
    if len(workers) != 1:
        raise NotMet(f"one worker, not {sorted(workers)}")
    (worker,) = workers.values()
    return worker


def _state_is(site: Site, *states: str) -> bool:
    return _worker(site).state in states


def _flow_on(clients: Clients) -> None:
    """Wait until another request is sent."""
    sent = clients.counted.sent
    until(lambda: clients.counted.sent > sent, 30.0, "requests flow")


def _comes_back(site: Site, old: list[Member]) -> None:
    """Wait until the only worker is ready with another main process."""

    def fresh() -> bool:
        worker = _worker(site)
        return worker.state == "ready" and worker.pid not in (None, old[0][0])

    until(fresh, READY_S, "ready again", every_s=0.1)


def _reached(site: Site, stage: str) -> bool:
    """The worker's boot is at this stage or past it, and its process runs."""
    worker = _worker(site)
    if worker.pid is None or worker.stage is None:
        return worker.state == "ready"
    return STAGES.index(worker.stage) >= STAGES.index(stage)


def _told(site: Site, text: str) -> list[str]:
    return [event for event in site.events() if text in event]


def _diagnosed(site: Site, cause: str) -> list[str]:
    return _told(site, f", {cause}:")


def _most(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s (max {max(seconds):.2f})" if seconds else "–"


def _stream(url: str, model: str, tokens: int) -> str:
    """One streamed completion: "complete" only with its usage and `[DONE]`; "hung" when silent."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=45.0)
    body = {
        "model": model,
        "prompt": "The quick brown fox",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    usage = 0
    last = b""
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body).encode(), headers)
        response = connection.getresponse()
        if response.status != 200:
            return f"refused, HTTP {response.status}"
        while line := response.readline():
            last = line.strip() or last
            if b'"usage":{' in line:
                usage = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
    except TimeoutError:
        return "hung"
    except ConnectionRefusedError:
        return "refused, port closed"
    except (OSError, HTTPException) as error:
        return f"cut off, {error!r}"
    finally:
        connection.close()
    if last == b"data: [DONE]" and usage == tokens:
        return "complete"
    return f"incomplete: {usage} of {tokens} tokens, last {os.fsdecode(last[:60])}"


ROWS: dict[str, Row] = {
    "daemon kill -9 under load": daemon_killed,
    "API server kill -9": server_killed,
    "EngineCore kill -9": core_killed,
    "EngineCore SIGSTOP": core_stopped,
    "unload while it boots": unloaded_while_booting,
    "stop of an idle worker": idle_stopped,
    "drain with 8 streams open": drained,
    "every failure of vLLM named right": diagnoses,
}
"""Rows on real vLLM by their names."""
