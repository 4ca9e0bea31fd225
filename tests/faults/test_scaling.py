"""More workers, fewer, and what a load or an apply would do, over a daemon with fake trees."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.faults.test_daemon import (
    MANUAL,
    ONE,
    QUICK_ONE,
    QUICK_TWO,
    TWO,
    FakeNvml,
    Fleet,
    model,
    play,
    ready,
    until,
)
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.looks import Configured, FleetFile, LoadPlan
from vllm_console.snapshot import from_json

__all__ = ["play"]

Play = Callable[[Callable[[Fleet], Awaitable[None]]], None]
SCALED = "[models.one.scale]\nmin = 1\nmax = 3\n"


def ids(daemon: Any) -> list[str]:
    return [worker.id for worker in model(daemon).workers]


def test_a_model_gets_more_workers_and_fewer(play: Play) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE, QUICK_ONE, SCALED)
        await ready(daemon)
        answer = await daemon.command("scale", {"model": "uno", "workers": 3})
        assert answer["workers"] == ["one-2", "one-3"]
        await until(lambda: model(daemon).ready == 3)
        answer = await daemon.command("scale", {"model": "one", "workers": 1})
        assert answer["gone"] == ["one-2", "one-3"]
        await until(lambda: ids(daemon) == ["one-1"])
        assert model(daemon).wanted == model(daemon).ready == 1

    play(scenario)


def test_scaling_up_while_workers_go_gives_new_ones(play: Play) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE, QUICK_ONE, SCALED)
        await ready(daemon)
        await daemon.command("scale", {"model": "one", "workers": 2})
        await until(lambda: model(daemon).ready == 2)
        await daemon.command("scale", {"model": "one", "workers": 1})
        answer = await daemon.command("scale", {"model": "one", "workers": 2})
        assert answer["workers"] == ["one-3"]
        await until(lambda: ids(daemon) == ["one-1", "one-3"] and model(daemon).ready == 2)

    play(scenario)


@pytest.mark.parametrize("workers", [0, 4, True, "2", None])
def test_a_number_that_the_file_does_not_allow_is_refused(play: Play, workers: object) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE, QUICK_ONE, SCALED)
        with pytest.raises(InvalidInput, match=r"1 to 3 workers|number of workers"):
            await daemon.command("scale", {"model": "one", "workers": workers})
        assert model(daemon).wanted == 1

    play(scenario)


def test_the_plan_of_a_load_names_gpus_and_what_is_in_the_way(play: Play) -> None:
    async def scenario(fleet: Fleet) -> None:
        fleet.write(ONE, MANUAL, QUICK_ONE, TWO, MANUAL, QUICK_TWO, "tensor_parallel_size = 2\n")
        daemon = fleet.daemon(FakeNvml())
        await daemon.start()
        await until(lambda: len(daemon.snapshot().gpus) == 2)
        plan = from_json(LoadPlan, await daemon.command("load-plan", {"model": "two"}))
        assert [cut.index for cut in plan.gpus] == [0, 1]
        assert plan.workers == 1
        assert plan.expected_s is None
        assert plan.refused == ()
        assert "--served-model-name" in plan.command
        assert model(daemon, "two").workers == ()
        two = fleet.file.read_text().replace("size = 2", "size = 3")
        fleet.file.write_text(two)
        await daemon.command("apply", {})
        plan = from_json(LoadPlan, await daemon.command("load-plan", {"model": "two"}))
        assert "models.two needs 3 GPUs" in plan.refused[0]

    play(scenario)


def test_a_models_configuration_tells_origins_and_no_secret(play: Play) -> None:
    async def scenario(fleet: Fleet) -> None:
        secrets = (
            '[models.one.env]\nHF_TOKEN = { env = "HF_TOKEN" }\n'
            'PROXY = "http://me:pass@proxy"\nOMP_NUM_THREADS = "1"\n'
        )
        daemon = await fleet.up(ONE, MANUAL, QUICK_ONE, secrets)
        told = from_json(Configured, await daemon.command("config", {"model": "one"}))
        values = {v.name: v.value for v in told.environment}
        assert values == {"HF_TOKEN": None, "PROXY": None, "OMP_NUM_THREADS": "1"}
        settings = {s.key: s for s in told.settings}
        assert settings["source"].value == '"fake/model"'
        assert settings["source"].origin == "fleet.toml:5"
        assert settings["drain_timeout"].layer == "defaults"
        assert told.as_the_file

    play(scenario)


def test_the_fleet_file_is_told_with_its_problems_or_with_what_applying_it_does(play: Play) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE, MANUAL, QUICK_ONE)
        text = fleet.file.read_text()
        fleet.file.write_text(text + "max_num_seqs = 4\n")
        found = from_json(FleetFile, await daemon.command("fleet-file", {}))
        assert found.lines[-1] == "max_num_seqs = 4"
        assert [(change.model, change.kind) for change in found.changes] == [("one", "restart")]
        fleet.file.write_text(text + "[models.one.slo]\nttft_p96 = 3\n")
        with pytest.raises(ConsoleError, match="ttft_p96"):
            await daemon.command("apply", {"digest": found.digest, "wait": False})
        broken = from_json(FleetFile, await daemon.command("fleet-file", {}))
        assert broken.problems[0].line == len(broken.lines)
        assert "ttft_p95" in broken.problems[0].text
        assert broken.digest is None

    play(scenario)


def test_an_agreed_plan_is_applied_beside_and_another_is_refused(play: Play) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE, MANUAL, QUICK_ONE)
        fleet.file.write_text(fleet.file.read_text() + TWO + MANUAL)
        agreed = from_json(FleetFile, await daemon.command("fleet-file", {})).digest
        with pytest.raises(ConsoleError, match="changed since the plan was shown"):
            await daemon.command("apply", {"digest": "another", "wait": False})
        await daemon.command("apply", {"digest": agreed, "wait": False})
        await until(lambda: [m.name for m in daemon.snapshot().models] == ["one", "two"])

    play(scenario)
