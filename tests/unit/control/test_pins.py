"""Pins of models: what a person says holds over the file until the file says it too."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_console.control.pins import Pins
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.fleet.model import ModelConfig


def none_is_started(model: ServedModel, worker_id: str) -> Actor:
    raise AssertionError(f"{worker_id} of {model.name}")


class Fleet:
    """Two models, a by file pinned and b not, and the pins of one daemon of theirs."""

    def __init__(self, path: Path) -> None:
        self.models = Roster(
            (name, ServedModel(config, 1, none_is_started))
            for name, config in (
                ("a", ModelConfig(name="a", source="x/y", pinned=True)),
                ("b", ModelConfig(name="b", source="x/y")),
            )
        )
        self.told: list[tuple[str, str, str]] = []
        self.pins = Pins(path, self.models, lambda *event: self.told.append(event))
        self.pins.restore()

    def pinned(self) -> list[str]:
        return [name for name, model in self.models.items() if model.pinned]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pins.json"


def test_until_somebody_says_otherwise_the_file_decides(path: Path) -> None:
    assert Fleet(path).pinned() == ["a"]
    assert not path.exists()


def test_what_a_person_says_holds_over_a_restart(path: Path) -> None:
    first = Fleet(path)
    first.pins.put(first.models["b"], True)
    first.pins.put(first.models["a"], False)
    assert first.pinned() == ["b"]
    assert first.told == [
        ("info", "b", "pinned: nothing evicts it"),
        ("info", "a", "no longer pinned"),
    ]
    assert Fleet(path).pinned() == ["b"]


def test_saying_what_is_so_already_changes_and_tells_nothing(path: Path) -> None:
    fleet = Fleet(path)
    fleet.pins.put(fleet.models["a"], True)
    assert fleet.told == []
    assert not path.exists()


def test_once_the_file_says_it_too_the_file_decides_again(path: Path) -> None:
    fleet = Fleet(path)
    model = fleet.models["b"]
    fleet.pins.put(model, True)
    model.config = model.config.model_copy(update={"pinned": True})
    fleet.pins.settle()
    assert not path.exists()
    model.config = model.config.model_copy(update={"pinned": False})
    fleet.pins.settle()
    assert fleet.pinned() == ["a"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"b": 1}', '{"gone": true}', "\x00"])
def test_a_file_that_says_nothing_of_use_pins_nothing(path: Path, text: str) -> None:
    path.write_text(text)
    assert Fleet(path).pinned() == ["a"]
