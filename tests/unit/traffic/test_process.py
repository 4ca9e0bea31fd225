"""The traffic process: aimed, read and stopped through its pipes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.traffic.fake_engine import FakeEngine, running
from vllm_console.errors import ConsoleError
from vllm_console.traffic.generate import Target
from vllm_console.traffic.process import TrafficProcess


def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A fake engine in a thread with a loop of its own."""
    ready = threading.Event()
    made: list[FakeEngine] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        made.append(FakeEngine())
        async with running(made[0]):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(5)
    yield made[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(5)
    loop.close()


def test_traffic_follows_its_targets_and_drains_at_the_end(engine: FakeEngine) -> None:
    traffic = TrafficProcess(rate=200.0, prompt=10, output=3)
    try:
        assert traffic.summary.seconds == 0.0
        traffic.aim([Target("fake", engine.url)])
        until(lambda: traffic.summary.output_tokens > 0)
        traffic.aim([])
        unrouted = traffic.summary.unrouted
        until(lambda: traffic.summary.unrouted > unrouted + 50)
        traffic.check()
    finally:
        summary = traffic.stop()
    (model,) = summary.models
    assert model.ok == model.sent == len(engine.requests) > 0
    with pytest.raises(ProcessLookupError):
        os.kill(traffic.pid, 0)


def test_the_first_requests_leave_as_soon_as_there_is_where_to(engine: FakeEngine) -> None:
    traffic = TrafficProcess(rate=0.001, prompt=10, output=3)
    try:
        traffic.aim([])
        traffic.aim([Target("fake", engine.url), Target("other", engine.url)])
        until(lambda: len(engine.requests) == 2)
    finally:
        summary = traffic.stop()
    assert [(model.model, model.ok) for model in summary.models] == [("fake", 1), ("other", 1)]


def test_traffic_that_was_never_aimed_stops_too() -> None:
    traffic = TrafficProcess(rate=1.0)
    assert traffic.stop().models == ()


def test_traffic_that_is_stopped_hard_does_not_wait_for_answers(engine: FakeEngine) -> None:
    engine.answering.clear()
    traffic = TrafficProcess(rate=100.0, prompt=10, output=3, drain_s=30.0)
    traffic.aim([Target("fake", engine.url)])
    until(lambda: len(engine.requests) > 0)
    before = time.monotonic()
    summary = traffic.stop(drain=False)
    assert time.monotonic() - before < 5
    assert summary.models[0].errors["abandoned"] > 0


def test_traffic_ends_with_the_process_that_started_it() -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\n"
            "from vllm_console.traffic.process import TrafficProcess\n"
            "print(TrafficProcess(rate=1.0).pid, flush=True)\n"
            "time.sleep(60)\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()

    until(lambda: not Path(f"/proc/{child}/stat").exists() or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_generator_that_cannot_start_says_why(tmp_path: Path) -> None:
    traffic = TrafficProcess(trace=tmp_path / "none.csv")
    try:
        until(lambda: traffic.summary.seconds > 0 or _is_zombie(traffic.pid))
        with pytest.raises(ConsoleError, match=r"none\.csv: cannot read the trace"):
            traffic.check()
    finally:
        traffic.stop()
