"""The gateway in front of real vLLM, through the command line, the daemon and official clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults.site import Site
from benchmarks.gateway.endpoint import MODEL, Served, fleet_file
from benchmarks.gateway.processes import free_ports
from benchmarks.gateway.promises import INTERFACES, LIVING, Promise
from vllm_console.engines.environment import EngineEnvironment

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


@pytest.mark.parametrize("promise", [pytest.param(p, id=name) for name, p in INTERFACES.items()])
def test_on_real_vllm_the_gateway(served: Served, promise: Promise) -> None:
    assert promise(served)


@pytest.mark.parametrize("promise", [pytest.param(p, id=name) for name, p in LIVING.items()])
def test_while_its_fleet_changes_the_gateway(served: Served, promise: Promise) -> None:
    assert promise(served)
