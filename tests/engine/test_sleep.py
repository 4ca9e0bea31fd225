"""Sleep mode on real vLLM: it sleeps, an official client's request wakes it, its tokens stay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults.site import Site
from benchmarks.faults.table import until
from benchmarks.gateway.endpoint import MODEL, Served, connected, fleet_file
from benchmarks.gateway.processes import free_ports
from vllm_console.engines.environment import EngineEnvironment

pytestmark = pytest.mark.engine

WORKER = f"{MODEL}-1"
HEAD = f"[models.{MODEL}]"


@pytest.fixture(scope="module")
def served(
    engine_environment: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A fleet whose ready model can sleep as deep as there is; taken down, nothing left."""
    (port,) = free_ports(1)
    file = fleet_file(engine_environment.name, port)
    file = file.replace(f"{HEAD}\n", f"{HEAD}\nsleep_level = 2\n")
    with Site(tmp_path_factory.mktemp("sleep"), file, ready_s=180.0) as site:
        site.up()
        site.ready(WORKER)
        yield Served(site, port)


@pytest.fixture(autouse=True)
def clients_hang_up(served: Served) -> Iterator[None]:
    """None is left to the collector, which finds its sockets in a later test."""
    yield
    served.hang_up()


def tokens(served: Served) -> str:
    """What the model says to the same prompt, each time the likeliest token."""
    answer = served.openai(timeout=120.0).completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=24, temperature=0.0, logprobs=1
    )
    return answer.choices[0].model_dump_json()


def is_sleeping(served: Served) -> str:
    """What the engine itself says."""
    url = served.site.workers()[WORKER].url
    assert url is not None
    with connected(int(url.rpartition(":")[2])) as connection:
        connection.request("GET", "/is_sleeping")
        return connection.getresponse().read().decode()


def reaches(served: Served, state: str) -> None:
    until(lambda: served.site.state(WORKER) == state, 30.0, f"{WORKER} is {state}")


def test_a_request_wakes_it_and_is_answered_as_before(served: Served) -> None:
    before, pid = tokens(served), served.site.pids()[WORKER]
    assert "asleep; `vllm-console wake tiny` or a request wakes it" in served.verb("sleep", MODEL)
    assert served.site.state(WORKER) == "asleep"
    assert is_sleeping(served) == '{"is_sleeping":true}'
    assert tokens(served) == before
    assert is_sleeping(served) == '{"is_sleeping":false}'
    assert served.site.state(WORKER) == "ready"
    assert served.site.pids()[WORKER] == pid
    assert [e for e in served.site.events() if "woken for a request" in e] == [
        f"{MODEL}: woken for a request"
    ]


def test_a_stream_of_who_asks_the_engine_itself_ends_before_it_sleeps(served: Served) -> None:
    url = served.site.workers()[WORKER].url
    client = served.openai(timeout=120.0)
    stream = client.with_options(base_url=f"{url}/v1").completions.create(
        model=MODEL, prompt="x", max_tokens=200, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    served.verb("sleep", MODEL, "--no-wait")
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == "length"
    reaches(served, "asleep")
    assert served.verb("wake", MODEL) == f"{MODEL}: ready, {url}\n"


def test_one_that_somebody_else_puts_to_sleep_is_seen_asleep_and_woken(served: Served) -> None:
    before, pid = tokens(served), served.site.pids()[WORKER]
    url = served.site.workers()[WORKER].url
    assert url is not None
    with connected(int(url.rpartition(":")[2])) as connection:
        connection.request("POST", "/sleep?level=1&mode=wait")
        assert connection.getresponse().status == 200
    reaches(served, "asleep")
    assert tokens(served) == before
    assert served.site.pids()[WORKER] == pid


def test_a_daemon_that_is_killed_adopts_it_asleep_and_unloads_it_in_time(served: Served) -> None:
    before, pid = tokens(served), served.site.pids()[WORKER]
    served.verb("sleep", MODEL)
    served.site.kill_daemon()
    served.site.up()
    reaches(served, "asleep")
    assert is_sleeping(served) == '{"is_sleeping":true}'
    served.verb("wake", MODEL)
    assert tokens(served) == before
    assert served.site.pids()[WORKER] == pid
    served.verb("sleep", MODEL)
    served.verb("unload", MODEL, "--timeout", "30")
    assert WORKER not in served.site.workers()
    assert not [title for title in served.site.processes().values() if "serve" in title]
