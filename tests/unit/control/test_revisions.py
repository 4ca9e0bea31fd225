"""Revision numbers and wanted models: kept over restarts, whatever a crash left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_console.control.revisions import Revisions, WantedModels


def test_a_new_configuration_gets_the_next_number_and_an_old_one_its_own(tmp_path: Path) -> None:
    path = tmp_path / "revisions.json"
    revisions = Revisions(path)
    assert [revisions.number("m", f) for f in ("a", "b", "a")] == [1, 2, 1]
    assert revisions.number("other", "b") == 1
    again = Revisions(path)
    assert [again.number("m", f) for f in ("b", "c")] == [2, 3]


def test_wanted_models_are_forgotten_by_a_clean_down_only(tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    WantedModels(path).write({"m": 2})
    assert WantedModels(path).read() == {"m": 2}
    WantedModels(path).clear()
    assert WantedModels(path).read() is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"m": "many"}', '{"m": null}'])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(damage)
    assert WantedModels(path).read() is None
    assert Revisions(path).number("new", "print") == 1
