"""Revisions and wanted models: kept over restarts, whatever a crash left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_console.control.revisions import Revisions, WantedModels
from vllm_console.control.rollout import stored
from vllm_console.control.served import ServedModel
from vllm_console.errors import InvalidInput
from vllm_console.fleet.model import ModelConfig
from vllm_console.history.database import Database

Open = Callable[..., Database]


def config(seqs: int, name: str = "m") -> ModelConfig:
    return ModelConfig(name=name, source="x/y", options={"max_num_seqs": seqs})


def test_a_new_configuration_gets_the_next_number_and_an_old_one_its_own(database: Open) -> None:
    revisions = Revisions(database())
    assert [revisions.number(config(n)) for n in (1, 2, 1)] == [1, 2, 1]
    assert revisions.number(config(2, "other")) == 1
    again = Revisions(database())
    assert [again.number(config(n)) for n in (2, 3)] == [2, 3]
    assert [r.config["options"]["max_num_seqs"] for r in again.of("m")] == [1, 2, 3]


def test_revisions_survive_the_file_they_were_in(database: Open) -> None:
    opened = database()
    revisions = Revisions(opened)
    revisions.number(config(1))
    assert opened.flush(10)
    opened.path.unlink()
    revisions.number(config(2))
    assert [r.number for r in Revisions(database()).of("m")] == [1, 2]


def test_the_file_of_an_earlier_version_is_taken_in_once(database: Open, tmp_path: Path) -> None:
    former = tmp_path / "revisions.json"
    former.write_bytes(Path(__file__).with_name("revisions.json").read_bytes())
    revisions = Revisions(database(), former)
    assert revisions.number(config(7)) == 3
    kept = Revisions(database(), former).of("m")
    assert [(r.number, r.fingerprint[-1:]) for r in kept[:2]] == [(1, "1"), (2, "2")]
    assert [r.config["source"] for r in kept] == ["x/y", "x/z", "x/y"]
    assert not former.exists()


def _never(model: ServedModel, worker_id: str) -> object:
    raise AssertionError("no worker is made here")


def test_an_earlier_revision_comes_back_as_it_was(database: Open) -> None:
    revisions = Revisions(database())
    for seqs in (1, 2, 3):
        revisions.number(config(seqs))
    kept = Revisions(database()).of("m")
    model = ServedModel(config(3), 3, _never)  # type: ignore[arg-type]
    assert stored(kept, model, None) == config(2)
    assert stored(kept, model, 1) == config(1)
    with pytest.raises(InvalidInput, match="at revision 3; to roll back to there is 1, 2"):
        stored(kept, model, 7)
    with pytest.raises(InvalidInput):
        stored(kept, model, 3)


def test_going_back_keeps_what_is_no_part_of_a_revision(database: Open) -> None:
    revisions = Revisions(database())
    for seqs in (1, 2):
        revisions.number(config(seqs))
    changed = {"pinned": True, "sampling": {"temperature": 0.2}}
    model = ServedModel(config(2).model_copy(update=changed), 2, _never)  # type: ignore[arg-type]
    back = stored(revisions.of("m"), model, 1)
    assert back == config(1).model_copy(update=changed)
    assert revisions.number(back) == 1


def test_wanted_models_are_forgotten_by_a_clean_down_only(tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    WantedModels(path).write({"m": 2})
    assert WantedModels(path).read() == {"m": 2}
    WantedModels(path).clear()
    assert WantedModels(path).read() is None


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"m": "many"}',
        '{"m": null}',
        '{"m": [1]}',
        '{"m": [{"at": 1}]}',
        '{"m": 1e999}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, database: Open, damage: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(damage)
    assert WantedModels(path).read() is None
    assert Revisions(database(), path).number(config(1)) == 1
