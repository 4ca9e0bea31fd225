"""A canary over fake `vllm serve` trees and a real gateway: shares, ends, promotions, deaths."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.faults.endpoints import END, PIECE, Crowd, Fronted, asked, kill, url_of
from tests.faults.test_daemon import ONE, QUICK_ONE, model, until
from vllm_console.control.client import Client
from vllm_console.control.daemon import Daemon
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.find import Place, locate
from vllm_console.gateway.place import is_held
from vllm_console.snapshot import Canary, Model
from vllm_console.workers.shim import process
from vllm_console.workers.states import State

FORMER = QUICK_ONE + "fake_step_s = 0.004\n"
TRIED = QUICK_ONE + "fake_step_s = 0.003\n"
OTHER = QUICK_ONE + "fake_step_s = 0.002\n"
BROKEN = QUICK_ONE + 'fake_failure = "exit-7"\n'
TWO_WORKERS = "scale = { min = 2, max = 3 }\n"

Scenario = Callable[[Fronted], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture
def play(tmp_path: Path, fake_engine: Path) -> Play:
    """Plays a scenario; the last daemon of it takes down what still runs."""

    async def played(scenario: Scenario) -> None:
        fleet = Fronted(tmp_path, fake_engine)
        try:
            await asyncio.wait_for(scenario(fleet), 60)
        finally:
            await fleet.end()
        assert not is_held(fleet.directory)

    return lambda scenario: asyncio.run(played(scenario))


def canary(daemon: Daemon) -> Canary:
    found = model(daemon).canary
    assert found is not None
    return found


def ready(one: Model) -> dict[str, int | None]:
    """The pids of the workers that are ready."""
    return {w.id: w.pid for w in one.workers if w.state == State.READY}


def said(daemon: Daemon) -> list[str]:
    """What the events tell of the model."""
    return [event.text for event in daemon.events.after(0) if event.subject == "one"]


async def share(daemon: Daemon, part: float) -> None:
    await daemon.command("canary", {"model": "one", "share": part})


async def tried(fleet: Fronted, daemon: Daemon, part: float, says: str = ONE + TRIED) -> None:
    """A canary of what the file now says, once it is ready."""
    fleet.write(says)
    await share(daemon, part)
    await until(
        lambda: model(daemon).canary is None or canary(daemon).worker in ready(model(daemon))
    )


def tokens(url: str) -> int:
    """Tokens that a worker has made, by its own count."""
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        found = re.search(r"generation_tokens_total (\d+)", answer.read().decode())
    assert found is not None
    return int(found.group(1))


async def split(one: Callable[[], Model], crowd: Crowd, requests: int) -> dict[str, float]:
    """The share of at least so many requests that each ready worker got."""

    async def counted() -> dict[str, int]:
        urls = {w.id: w.url for w in one().workers if w.state == State.READY and w.url}
        return {name: await asyncio.to_thread(tokens, url) for name, url in urls.items()}

    before = await counted()
    await crowd.more(requests)
    after = await counted()
    made = {name: after[name] - before.get(name, 0) for name in after}
    return {name: count / sum(made.values()) for name, count in made.items()}


def near(part: float, requests: int) -> float:
    """How far a share may lie from `part` by chance, once in ten thousand times."""
    return 4 * math.sqrt(part * (1 - part) / requests)


def test_a_canary_gets_its_share_and_taking_it_loses_no_request(play: Play) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FORMER)
        crowd = Crowd(url_of(daemon))
        crowd.start(6)
        await crowd.more(20)
        await tried(fleet, daemon, 0.1)
        for part in (0.1, 0.5):
            await share(daemon, part)
            await crowd.more(20)
            got = await split(lambda: model(daemon), crowd, 600)
            assert got["one-2"] == pytest.approx(part, abs=near(part, 600))
        assert (canary(daemon).revision, model(daemon).revision) == (2, 1)
        assert (model(daemon).wanted, model(daemon).ready) == (1, 1)
        pid = ready(model(daemon))["one-2"]
        plan = await daemon.command("plan", {})
        (change,) = plan["changes"]
        assert change["kind"] == "restart"
        assert "canary: revision 2 stays, and takes the place of one worker" in change["what"]
        await daemon.command("apply", {"digest": plan["digest"]})
        await crowd.more(50)
        await crowd.stop()
        assert crowd.wrong == []
        assert ready(model(daemon)) == {"one-2": pid}
        assert (model(daemon).revision, model(daemon).canary) == (2, None)
        assert said(daemon) == [
            "canary: revision 2 starts beside revision 1",
            "canary: revision 2 has 10 % of the requests",
            "canary: revision 2 has 10 % of the requests",
            "canary: revision 2 has 50 % of the requests",
            "revision 2 serves",
        ]

    play(scenario)


def test_ending_a_canary_loses_no_request_and_leaves_the_former_workers(play: Play) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + TWO_WORKERS + FORMER)
        await until(lambda: model(daemon).ready == 2)
        before = ready(model(daemon))
        crowd = Crowd(url_of(daemon))
        crowd.start(6)
        await tried(fleet, daemon, 0.5, ONE + TWO_WORKERS + TRIED)
        got = await split(lambda: model(daemon), crowd, 600)
        assert got["one-3"] == pytest.approx(0.5, abs=near(0.5, 600))
        await daemon.command("canary", {"model": "uno", "end": True})
        await until(lambda: "one-3" not in {w.id for w in model(daemon).workers})
        await crowd.more(50)
        await crowd.stop()
        assert crowd.wrong == []
        assert ready(model(daemon)) == before
        assert said(daemon)[-1] == "canary: revision 2 ends; revision 1 has all requests"
        with pytest.raises(ConsoleError, match="one has no canary"):
            await daemon.command("canary", {"model": "one", "end": True})

    play(scenario)


def test_taking_a_canary_replaces_every_other_worker_too(play: Play) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + TWO_WORKERS + FORMER)
        await until(lambda: model(daemon).ready == 2)
        before = set(ready(model(daemon)).values())
        crowd = Crowd(url_of(daemon))
        crowd.start(6)
        await tried(fleet, daemon, 0.2, ONE + TWO_WORKERS + TRIED)
        pid = ready(model(daemon))["one-3"]
        await daemon.command("apply", {})
        await crowd.more(50)
        await crowd.stop()
        assert crowd.wrong == []
        after = ready(model(daemon))
        assert after["one-3"] == pid
        assert len(after) == 2
        assert not before & set(after.values())

    play(scenario)


@pytest.mark.parametrize("broken", [False, True])
def test_a_canary_that_only_starts_is_waited_for_when_it_is_taken(play: Play, broken: bool) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FORMER)
        before = ready(model(daemon))
        crowd = Crowd(url_of(daemon))
        crowd.start()
        fleet.write(ONE + (BROKEN if broken else TRIED))
        await share(daemon, 0.5)
        if broken:
            with pytest.raises(ConsoleError, match=r"revision 2 did not become .*1 serves"):
                await daemon.command("apply", {})
        else:
            await daemon.command("apply", {})
        assert (ready(model(daemon)) == before) == broken
        assert list(ready(model(daemon))) == ["one-1" if broken else "one-2"]
        assert ("0.003" in model(daemon).command) != broken
        await crowd.more(20)
        await crowd.stop()
        assert crowd.wrong == []

    play(scenario)


@pytest.mark.parametrize(
    ("says", "kind", "revision"), [(FORMER, "end-canary", 1), (OTHER, "restart", 3)]
)
def test_applying_anything_else_ends_the_canary(
    play: Play, says: str, kind: str, revision: int
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FORMER)
        before = ready(model(daemon))
        await tried(fleet, daemon, 0.2)
        fleet.write(ONE + says)
        (change,) = (await daemon.command("plan", {}))["changes"]
        assert change["kind"] == kind
        assert change["what"][-1] == "canary: revision 2 ends first"
        await daemon.command("apply", {})
        await until(lambda: len(model(daemon).workers) == model(daemon).ready == 1)
        assert (model(daemon).revision, model(daemon).canary) == (revision, None)
        assert (ready(model(daemon)) == before) == (revision == 1)
        assert "canary: revision 2 ends; revision 1 has all requests" in said(daemon)

    play(scenario)


def test_a_canary_that_does_not_become_ready_is_retired_by_itself(play: Play) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FORMER)
        before = ready(model(daemon))
        crowd = Crowd(url_of(daemon))
        crowd.start()
        fleet.write(ONE + BROKEN)
        await share(daemon, 0.3)
        await until(lambda: model(daemon).canary is None and len(model(daemon).workers) == 1)
        await crowd.more(20)
        await crowd.stop()
        assert crowd.wrong == []
        assert ready(model(daemon)) == before
        last = daemon.events.after(0)
        text = next(e.text for e in last if e.subject == "one" and e.level == "crit")
        assert text.startswith("canary: revision 2 did not become ready (")
        assert text.endswith("; revision 1 has all requests")

    play(scenario)


@pytest.mark.parametrize("victim", ["one-1", "one-2"])
def test_when_one_side_dies_the_other_has_everything_until_it_is_back(
    play: Play, victim: str
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FORMER)
        await tried(fleet, daemon, 0.5)
        pid = ready(model(daemon))[victim]
        assert pid is not None
        kill(pid)
        await until(lambda: victim not in ready(model(daemon)))
        crowd = Crowd(url_of(daemon))
        crowd.start(6)
        await crowd.more(100)
        await until(lambda: victim in ready(model(daemon)))
        assert ready(model(daemon))[victim] != pid
        await crowd.more(20)
        got = await split(lambda: model(daemon), crowd, 600)
        await crowd.stop()
        assert crowd.wrong == []
        assert got["one-2"] == pytest.approx(0.5, abs=near(0.5, 600))
        revisions = {w.id: w.spec.revision for w in daemon.models["one"].workers.values() if w.spec}
        assert revisions == {"one-1": 1, "one-2": 2}

    play(scenario)


def test_unloading_a_model_ends_its_canary(play: Play) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FORMER)
        await tried(fleet, daemon, 0.5)
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).workers == ())
        assert model(daemon).canary is None
        await daemon.command("load", {"model": "one"})
        await until(lambda: list(ready(model(daemon))) == ["one-1"])
        assert model(daemon).revision == 1

    play(scenario)


def test_a_fleet_that_was_taken_down_starts_without_its_canary(play: Play) -> None:
    async def scenario(fleet: Fronted) -> None:
        first = await fleet.serving(ONE + FORMER)
        await tried(fleet, first, 0.5)
        assert (fleet.root / "state" / "canaries.json").exists()
        await first.take_down()
        await first.close()
        assert not (fleet.root / "state" / "canaries.json").exists()
        second = await fleet.serving()
        assert list(ready(model(second))) == ["one-1"]
        assert (model(second).revision, model(second).canary) == (2, None)

    play(scenario)


def test_what_cannot_be_tried_is_refused_in_one_line(play: Play) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FORMER)
        for says, why in (
            (ONE + FORMER + "[models.one.slo]\nttft_p95 = '1s'\n", "changes nothing of one"),
            (ONE.replace('["uno"]', "[]") + TRIED, "no longer answer to uno"),
            ("", "one is no longer in the fleet file"),
            (ONE + "devices = [0]\n" + TRIED, "devices = "),
        ):
            fleet.write(says)
            with pytest.raises(ConsoleError, match=why) as refused:
                await share(daemon, 0.1)
            assert "\n" not in str(refused.value)
        for part in (None, "10", True, -0.1, 1.1, math.nan):
            with pytest.raises(InvalidInput, match="share of the requests"):
                await daemon.command("canary", {"model": "one", "share": part})
        assert len(model(daemon).workers) == 1
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).workers == ())
        fleet.write(ONE + TRIED)
        with pytest.raises(ConsoleError, match="one is stopped: a canary needs a ready worker"):
            await share(daemon, 0.1)

    play(scenario)


def test_a_canary_whose_tree_ended_while_no_daemon_ran_starts_again(play: Play) -> None:
    async def scenario(fleet: Fronted) -> None:
        first = await fleet.serving(ONE + FORMER)
        await tried(fleet, first, 0.25)
        pids = ready(model(first))
        await first.close()
        assert pids["one-2"] is not None
        kill(pids["one-2"])
        await until(lambda: process(pids["one-2"] or 0) is None)
        second = await fleet.up()
        await until(lambda: len(ready(model(second))) == 2)
        assert ready(model(second))["one-1"] == pids["one-1"]
        assert ready(model(second))["one-2"] != pids["one-2"]
        assert (canary(second).share, canary(second).revision, model(second).revision) == (
            0.25,
            2,
            1,
        )
        await second.command("canary", {"model": "one", "end": True})
        await until(lambda: list(ready(model(second))) == ["one-1"])
        await until(lambda: len(model(second).workers) == 1)

    play(scenario)


@pytest.mark.parametrize(
    ("part", "begun", "stays"), [(1.0, "end", "one-1"), (0.0, "apply", "one-2")]
)
def test_what_a_daemon_began_with_a_canary_the_next_one_ends(
    play: Play, part: float, begun: str, stays: str
) -> None:
    async def scenario(fleet: Fronted) -> None:
        first = await fleet.serving(ONE + FORMER)
        await tried(fleet, first, part)
        pids, goes = ready(model(first)), "one-2" if stays == "one-1" else "one-1"
        crowd = Crowd(url_of(first))
        crowd.start(2)
        long = [asyncio.create_task(asked(url_of(first), tokens=600)) for _ in range(2)]
        await until(lambda: (model(first).in_flight or 0) >= 2)
        await crowd.more(20)
        args = (
            {"digest": None, "wait": False} if begun == "apply" else {"model": "one", "end": True}
        )
        await first.command("apply" if begun == "apply" else "canary", args)
        await until(lambda: goes not in ready(model(first)))
        assert goes in {w.id for w in model(first).workers}
        await first.close()
        second = await fleet.up()
        await until(lambda: [w.id for w in model(second).workers] == [stays])
        assert ready(model(second)) == {stays: pids[stays]}
        assert (model(second).revision, model(second).canary) == (int(stays[-1]), None)
        assert await asyncio.gather(*long) == [(200, PIECE * 600 + END)] * 2
        await crowd.more(20)
        await crowd.stop()
        assert crowd.wrong == []

    play(scenario)


def verb(place: Place, *words: str) -> tuple[int, str]:
    """Run a verb of the command line as a person would: its exit code and what it printed."""
    command = [sys.executable, "-m", "vllm_console", *words, "--fleet", str(place.fleet_file)]
    command += ["--state-dir", str(place.state_dir)]
    done = subprocess.run(command, check=False, timeout=90, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_killed_daemon_leaves_both_revisions_and_their_shares_to_the_next(
    tmp_path: Path, fake_engine: Path
) -> None:
    fleet = Fronted(tmp_path, fake_engine)
    fleet.write(ONE + FORMER)
    place = locate(fleet.file, tmp_path / "state")
    client = Client(place.socket)

    def one() -> Model:
        return client.snapshot().models[0]

    async def scenario() -> None:
        await asyncio.to_thread(verb, place, "up", "-d")
        assert (await asyncio.to_thread(verb, place, "load", "one"))[0] == 0
        await until(lambda: client.snapshot().gateway.url is not None)
        url = client.snapshot().gateway.url
        assert url is not None
        crowd = Crowd(url)
        crowd.start()
        fleet.write(ONE + TRIED)
        done = await asyncio.to_thread(verb, place, "canary", "one", "25%")
        assert done[0] == 0
        assert "one: revision 2 has 25 % of the requests, revision 1 the rest\n" in done[1]
        pids = ready(one())
        for last in (False, True):
            daemon = int((place.state_dir / "daemon.lock").read_text())
            kill(daemon)
            await until(lambda pid=daemon: process(pid) is None)  # type: ignore[misc]
            await crowd.more(20)
            await asyncio.to_thread(verb, place, "up", "-d")
            await until(lambda: len(ready(one())) == 2 and client.snapshot().gateway.running)
            assert ready(one()) == pids
            found = one().canary
            assert found is not None
            assert (one().revision, found.revision, found.share) == (1, 2, 0.25)
            got = await split(one, crowd, 400)
            assert got["one-2"] == pytest.approx(0.25, abs=near(0.25, 400))
            if not last:
                shown = await asyncio.to_thread(verb, place, "canary", "uno")
                assert shown[0] == 0
                assert "revision 2 beside revision 1" in shown[1]
        assert (await asyncio.to_thread(verb, place, "apply", "--yes"))[0] == 0
        await crowd.more(20)
        await crowd.stop()
        assert crowd.wrong == []
        assert ready(one()) == {"one-2": pids["one-2"]}
        assert one().revision == 2

    async def limited() -> None:
        await asyncio.wait_for(scenario(), 90)

    try:
        asyncio.run(limited())
    finally:
        if verb(place, "down")[0] == 3:
            verb(place, "up", "-d")
            verb(place, "down")
    assert not is_held(fleet.directory)
