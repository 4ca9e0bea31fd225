"""`keys`: what it asks the daemon for, what it does without one, and what it prints where."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vllm_console.cli import keys
from vllm_console.cli.main import main
from vllm_console.errors import InvalidInput
from vllm_console.history.account_rows import KeyRow, Terms, Use, day_of, hash_of
from vllm_console.history.accounts import Accounts
from vllm_console.history.file import reading
from vllm_console.history.records import Span, read_audit

NOW = 1_795_255_200.0
"""2026-11-21 10:00 UTC."""
FLEET = """
[fleet]
name = "t"
[models.qwen]
source = "tiny:small"
aliases = ["q"]
"""
Verb = Callable[..., int]
Out = pytest.CaptureFixture[str]


class FakeClient:
    """A fake client of a daemon that does what it is asked for, or refuses."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.refuses = refuses

    def command(self, verb: str, **args: Any) -> dict[str, Any]:
        if self.refuses is not None:
            raise self.refuses
        self.commands.append((verb, args))
        return {"ok": True}


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Runs `keys` on a fleet while no daemon runs, at a time that stands."""
    (tmp_path / "fleet.toml").write_text(FLEET)
    monkeypatch.setattr(time, "time", lambda: NOW)
    place = ["--fleet", str(tmp_path / "fleet.toml"), "--state-dir", str(tmp_path / "state")]
    return lambda *words: main(["keys", *words, *place])


def stored(tmp_path: Path) -> list[KeyRow]:
    with closing(Accounts(tmp_path / "state" / "gateway.sqlite")) as accounts:
        return accounts.keys(NOW)


def audit(tmp_path: Path) -> list[tuple[str, str]]:
    with reading(tmp_path / "state" / "history.sqlite") as connection:
        return [(each.verb, each.outcome) for each in read_audit(connection, Span())]


def test_the_secret_is_all_that_stdout_gets_and_only_its_hash_is_kept(
    verb: Verb, tmp_path: Path, capsys: Out
) -> None:
    assert verb("create", "ada") == 0
    out, err = capsys.readouterr()
    secret = out.removesuffix("\n")
    (row,) = stored(tmp_path)
    assert row.hash == hash_of(secret.encode())
    assert (row.shown, row.terms) == (secret[:7], Terms())
    assert secret not in err
    assert "shown this once" in err
    for each in (tmp_path / "state").iterdir():
        assert secret.encode() not in each.read_bytes()


def test_quiet_says_nothing_else(verb: Verb, capsys: Out) -> None:
    assert verb("create", "ada", "--quiet") == 0
    out, err = capsys.readouterr()
    assert (out[:3], len(out), err) == ("vc-", 47, "")


def test_every_limit_is_kept_and_an_alias_becomes_the_model(
    verb: Verb, tmp_path: Path, capsys: Out
) -> None:
    words = "--models q,qwen --max-class high --rpm 60 --tpm 100000 --concurrency 4 --expires 30d"
    assert verb("create", "ada", *words.split(), "--budget", "$50/month") == 0
    assert stored(tmp_path)[0].terms == Terms(
        ("qwen",), 0, 60, 100_000, 4, 50.0, int(NOW) + 30 * 86_400
    )
    assert "gpu_hour_cost" in capsys.readouterr().err


def test_an_unknown_model_is_said_with_the_nearest_and_kept(
    verb: Verb, tmp_path: Path, capsys: Out
) -> None:
    assert verb("create", "ada", "--models", "qwem") == 0
    out, err = capsys.readouterr()
    assert 'no model "qwem" in the fleet; did you mean "qwen"?' in err
    assert len(out) == 47
    assert stored(tmp_path)[0].terms.models == ("qwem",)


def test_editing_and_revoking_without_a_daemon_is_in_the_audit_too(
    verb: Verb, tmp_path: Path, capsys: Out
) -> None:
    assert verb("create", "ada", "--rpm", "5") == 0
    assert verb("edit", "ada", "--rpm", "none", "--tpm", "7") == 0
    assert stored(tmp_path)[0].terms == Terms(tpm=7)
    assert verb("revoke", "adda") == 4
    assert verb("revoke", "ada") == 0
    assert stored(tmp_path) == []
    assert audit(tmp_path) == [
        ("key-create", "ok"),
        ("key-edit", "ok"),
        ("key-revoke", 'no key "adda"; did you mean "ada"?'),
        ("key-revoke", "ok"),
    ]


def test_a_daemon_is_asked_and_never_told_the_secret(
    verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    client = FakeClient()
    monkeypatch.setattr(keys, "client_of", lambda _: client)
    assert verb("create", "ada", "--rpm", "5") == 0
    secret = capsys.readouterr().out.strip()
    assert verb("edit", "ada", "--models", "all") == 0
    assert verb("revoke", "ada") == 0
    hashed = hash_of(secret.encode()).hex()
    assert client.commands == [
        ("key-create", {"name": "ada", "hash": hashed, "shown": secret[:7], "rpm": 5}),
        ("key-edit", {"name": "ada", "models": None}),
        ("key-revoke", {"name": "ada"}),
    ]
    assert not (tmp_path / "state").exists()


def test_a_secret_that_was_not_taken_is_not_shown(
    verb: Verb, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    client = FakeClient(InvalidInput("a key ada is there already"))
    monkeypatch.setattr(keys, "client_of", lambda _: client)
    assert verb("create", "ada") == 2
    assert capsys.readouterr() == ("", "vllm-console: a key ada is there already\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "a b"], "cannot be the name of a key"),
        (["edit", "ada"], "says nothing to change"),
        (["create", "ada", "--rpm", "0"], "takes a whole number from 1"),
        (["create", "ada", "--tpm", "1e5"], "takes a whole number from 1"),
        (["create", "ada", "--budget", "50€"], "takes an amount of $ a month"),
        (["create", "ada", "--budget", "0"], "takes an amount of $ a month"),
        (["create", "ada", "--expires", "soon"], 'takes a time from now such as "30d"'),
        (["create", "ada", "--expires", "2026-11-20"], "is over already"),
        (["create", "ada", "--expires", "9999999d"], "takes a time from now"),
        (["create", "ada", "--max-class", "hihg"], 'did you mean "high"?'),
        (["create", "ada", "--models", ","], "names no model"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(
    verb: Verb, tmp_path: Path, words: list[str], said: str, capsys: Out
) -> None:
    try:
        code = verb(*words)
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("text", "amount"),
    [("$50/month", 50.0), ("50", 50.0), ("12.5$", 12.5), ("$ 3 / month", 3.0), ("none", None)],
)
def test_a_budget_is_written_in_many_ways(text: str, amount: float | None) -> None:
    assert keys.budget_of(text) == amount


def test_an_end_is_so_long_from_now_or_a_day_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert keys.expires_of("1h30m") == int(NOW) + 5400
    assert keys.expires_of("2026-11-22") == int(NOW) + 14 * 3600
    assert keys.expires_of("2026-11-22T00:00:00+02:00") == int(NOW) + 12 * 3600
    assert keys.expires_of("none") is None


def test_no_keys_is_said(verb: Verb, capsys: Out) -> None:
    assert verb("list") == 0
    assert capsys.readouterr().out == "t has no keys; `vllm-console keys create NAME` makes one\n"


@pytest.fixture
def some(tmp_path: Path) -> None:
    """Three keys: one with limits that was used, one of the fleet file, one that was revoked."""
    (tmp_path / "state").mkdir()
    with closing(Accounts(tmp_path / "state" / "gateway.sqlite")) as accounts:
        terms = Terms(("qwen",), 0, 60, 100_000, None, 50.0, int(NOW) + 86_400)
        number = accounts.create("ada", hash_of(b"a"), "vc-ada_", terms, NOW)
        accounts.keep({"web": hash_of(b"w")}, NOW)
        accounts.create("old", hash_of(b"o"), "vc-old_", Terms(), NOW)
        accounts.revoke("old", NOW)
        accounts.add_usage({(day_of(NOW), number, "qwen"): Use(1, cost=1.25)}, NOW - 240)


@pytest.mark.usefixtures("some")
def test_the_list_shows_what_each_may_do_and_what_it_spent(verb: Verb, capsys: Out) -> None:
    assert verb("list") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert [" ".join(row.split()) for row in rows] == [
        "ada vc-ada_… high 60 100,000 – $50.00 $1.25 4 min ago 2026-11-22 10:00 qwen",
        "web fleet.toml high – – – – – never never all",
    ]
    assert verb("list", "--all") == 0
    assert "revoked 2026-11-21" in capsys.readouterr().out


@pytest.mark.usefixtures("some")
def test_the_list_as_json_holds_no_hash(verb: Verb, capsys: Out) -> None:
    assert verb("list", "--json", "--all") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], [key["name"] for key in told["keys"]]) == (
        "vllm-console/keys/1",
        ["ada", "old", "web"],
    )
    assert told["keys"][0] == {
        "name": "ada",
        "id": 1,
        "shown": "vc-ada_",
        "origin": "created",
        "models": ["qwen"],
        "max_class": "high",
        "rpm": 60,
        "tpm": 100_000,
        "concurrency": None,
        "budget": 50.0,
        "spent": 1.25,
        "created": "2026-11-21T10:00:00.000Z",
        "expires": "2026-11-22T10:00:00.000Z",
        "revoked": None,
        "last_used": "2026-11-21T09:56:00.000Z",
    }


@pytest.mark.usefixtures("some")
def test_a_key_of_the_fleet_file_is_revoked_there(verb: Verb, capsys: Out) -> None:
    assert verb("revoke", "web") == 2
    assert "take it out of [gateway.keys]" in capsys.readouterr().err


@pytest.mark.usefixtures("some")
def test_usage_of_keys_is_the_verb_usage(verb: Verb, capsys: Out) -> None:
    assert verb("usage", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["key"], row["cost"]) == ("ada", 1.25)


def test_a_broken_file_is_one_line(verb: Verb, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "gateway.sqlite").write_bytes(b"no database" * 1000)
    for words in (["list"], ["create", "ada"], ["usage"]):
        assert verb(*words) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "is damaged" in err


def test_completion_knows_what_keys_does_and_its_options(capsys: Out) -> None:
    assert main(["completion", "bash"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (case,) = [line for line in lines if line.lstrip().startswith("keys)")]
    words = case.partition("'")[2].partition("'")[0].split()
    assert {"create", "revoke", "edit", "list", "usage", "--rpm", "--budget", "--all"} <= set(words)
    assert len(words) == len(set(words))
