"""Keys by way of the daemon: the commands, what they refuse, and what the audit keeps of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from vllm_console.control.audit import recorded
from vllm_console.control.commands import Commanded, Commands
from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.fleet.find import Place
from vllm_console.history.account_rows import KeyRow, Terms, hash_of
from vllm_console.history.accounts import Accounts

HASH = hash_of(b"vc-ada")
NEW: dict[str, Any] = {"name": "ada", "hash": HASH.hex(), "shown": "vc-ada_"}


class FakeDaemon:
    """A fake daemon that has a place and nothing else."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.going_down = False


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "fleet.toml", "t", tmp_path)


def told(place: Place, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
    commands = Commands(cast(Commanded, FakeDaemon(place)))
    return asyncio.run(commands.carry_out(verb, args))


def keys(place: Place) -> list[KeyRow]:
    with closing(Accounts(place.accounts)) as accounts:
        return accounts.keys(0.0)


def test_a_key_is_made_changed_and_ended_by_commands(place: Place) -> None:
    assert told(place, "key-create", {**NEW, "models": ["chat"], "rpm": 60, "budget": 5})["ok"]
    (row,) = keys(place)
    assert (row.name, row.hash, row.shown) == ("ada", HASH, "vc-ada_")
    assert row.terms == Terms(("chat",), rpm=60, budget=5.0)
    told(place, "key-edit", {"name": "ada", "rpm": None, "max_class": 0})
    assert keys(place)[0].terms == Terms(("chat",), max_class=0, budget=5.0)
    told(place, "key-revoke", {"name": "ada"})
    assert keys(place) == []
    with pytest.raises(NotFound):
        told(place, "key-revoke", {"name": "ada"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hash": "vc-the-secret-itself"}, "hash: takes the SHA-256"),
        ({"hash": "ab"}, "hash: takes"),
        ({"hash": None}, "hash: takes"),
        ({"shown": 5}, "hash: takes"),
        ({"name": None}, "needs a name"),
        ({"name": "a b"}, "cannot be the name"),
        ({"rpm": 0}, "rpm: takes a whole number"),
        ({"tpm": 1.5}, "tpm: takes"),
        ({"concurrency": True}, "concurrency: takes"),
        ({"expires": "soon"}, "expires: takes"),
        ({"budget": -1}, "budget: takes"),
        ({"budget": "5"}, "budget: takes"),
        ({"max_class": "high"}, "max_class: takes"),
        ({"max_class": None}, "max_class: takes"),
        ({"models": "chat"}, "models: takes"),
        ({"models": [1]}, "models: takes"),
    ],
)
def test_what_a_command_cannot_mean_is_said_and_makes_nothing(
    place: Place, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        told(place, "key-create", {**NEW, **wrong})
    assert keys(place) == []


def test_a_broken_file_is_one_line(place: Place) -> None:
    place.accounts.write_bytes(b"no database" * 1000)
    with pytest.raises(ConsoleError, match="is damaged"):
        told(place, "key-create", NEW)


def test_the_audit_keeps_the_terms_and_not_the_hash() -> None:
    kept = recorded({**NEW, "models": ["chat"], "rpm": None, "budget": 5.0})
    assert kept == {
        "name": "ada",
        "hash": "•••",
        "shown": "•••",
        "models": "['chat']",
        "rpm": "none",
        "budget": 5.0,
    }
