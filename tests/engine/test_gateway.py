"""The gateway in front of real vLLM, through the command line, the daemon and official clients."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from benchmarks.faults.site import Site
from benchmarks.faults.table import until
from benchmarks.gateway.endpoint import ALIAS, MODEL, SLOTS, Served, fleet_file
from benchmarks.gateway.processes import free_ports
from benchmarks.gateway.promises import INTERFACES, LIVING, Promise
from vllm_console.engines.environment import EngineEnvironment
from vllm_console.snapshot import Worker

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def served(
    engine_environment: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A fleet of two tiny models, one of them ready; taken down at the end, nothing left."""
    (port,) = free_ports(1)
    file = fleet_file(engine_environment.name, port)
    with Site(tmp_path_factory.mktemp("endpoint"), file, ready_s=180.0) as site:
        site.up()
        site.ready(f"{MODEL}-1")
        yield Served(site, port)


@pytest.fixture(autouse=True)
def clients_hang_up(served: Served) -> Iterator[None]:
    """None is left to the collector, which finds its sockets in a later test."""
    yield
    served.hang_up()


@pytest.mark.parametrize("promise", [pytest.param(p, id=name) for name, p in INTERFACES.items()])
def test_on_real_vllm_the_gateway(served: Served, promise: Promise) -> None:
    assert promise(served)


@pytest.mark.parametrize("promise", [pytest.param(p, id=name) for name, p in LIVING.items()])
def test_while_its_fleet_changes_the_gateway(served: Served, promise: Promise) -> None:
    assert promise(served)


def test_a_changed_model_is_tried_with_half_of_its_requests_and_then_taken(served: Served) -> None:
    site = served.site
    text = site.file.read_text(encoding="utf-8")
    site.write(text.replace(f"max_num_seqs = {SLOTS}", f"max_num_seqs = {SLOTS - 1}", 1))
    said = served.verb("canary", ALIAS, "50%")
    assert said == f"{MODEL}: revision 2 has 50 % of the requests, revision 1 the rest\n"
    client = served.openai()

    def answer(number: int) -> str:
        asked = client.completions.create(model=MODEL, prompt=f"{number} ", max_tokens=4)
        return asked.choices[0].text

    former = {worker.id: answered(worker) for worker in site.models()[MODEL].workers}
    assert all(answer(number) for number in range(20))
    by = {w.id: answered(w) - former[w.id] for w in site.models()[MODEL].workers}
    assert by == {f"{MODEL}-1": 10, f"{MODEL}-2": 10}
    until(lambda: "10" in compared(served)[f"{MODEL}-2"], 30.0, "both are compared")
    pid = site.pids()[f"{MODEL}-2"]
    served.verb("apply", "--yes")
    (worker,) = site.models()[MODEL].workers
    assert (worker.id, worker.pid, worker.state) == (f"{MODEL}-2", pid, "ready")
    assert answer(99)


def answered(worker: Worker) -> int:
    """Requests that a worker has finished, by its own count."""
    with urlopen(f"{worker.url}/metrics", timeout=30.0) as told:
        counts = re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", told.read().decode(), re.M)
    return int(sum(map(float, counts)))


def compared(served: Served) -> dict[str, list[str]]:
    """What `canary` prints of each worker."""
    rows = [line.split() for line in served.verb("canary", MODEL).splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}
