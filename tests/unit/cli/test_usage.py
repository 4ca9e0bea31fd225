"""`usage`: tables, JSON and CSV of what was counted, and what it says where nothing was."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from vllm_console.cli import usage
from vllm_console.cli.main import main
from vllm_console.history.account_rows import Terms, Use, hash_of
from vllm_console.history.accounts import Accounts

NOW = 1_795_255_200.0
"""2026-11-21 10:00 UTC."""
Verb = Callable[..., int]
Out = pytest.CaptureFixture[str]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Runs `usage` on a fleet that has no gateway yet, at a time that stands."""
    (tmp_path / "fleet.toml").write_text('[fleet]\nname = "t"\n')
    monkeypatch.setattr(time, "time", lambda: NOW)
    place = ["--fleet", str(tmp_path / "fleet.toml"), "--state-dir", str(tmp_path)]
    return lambda *words: main(["usage", *words, *place])


@pytest.fixture
def verb(empty: Verb, tmp_path: Path) -> Verb:
    """The same once a gateway has counted for two keys and for nobody."""
    with closing(Accounts(tmp_path / "gateway.sqlite")) as accounts:
        ada = accounts.create("ada", hash_of(b"a"), "", Terms(), NOW)
        bob = accounts.create("bob", hash_of(b"b"), "", Terms(), NOW)
        accounts.add_usage(
            {
                ("2026-11-21", ada, "chat"): Use(1200, 3, 150_000, 90_000, 48_000, 7200.0, 4.2),
                ("2026-11-20", ada, "embed"): Use(10, 0, 1000, 0, 0, 1.8, 0.001),
                ("2026-11-21", bob, "chat"): Use(1, 1),
                ("2026-11-01", 0, "chat"): Use(5, 0, 10, 0, 20),
            },
            NOW,
        )
        accounts.revoke("bob", NOW)
    return empty


def rows_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line]


def test_the_table_has_a_line_a_key_and_their_sum(verb: Verb, capsys: Out) -> None:
    assert verb("--since", "30d") == 0
    span, *rows = capsys.readouterr().out.splitlines()
    assert span == "2026-10-22 to 2026-11-21, whole days (UTC)"
    assert rows_of("\n".join(rows)) == [
        ["KEY", "REQUESTS", "FAILED", "PROMPT", "CACHED", "GENERATED", "GPU-hours", "$"],
        ["anonymous", "5", "0", "10", "0", "20", "–", "–"],
        ["ada", "1,210", "3", "151k", "90,000", "48,000", "2.00", "$4.20"],
        ["bob", "(revoked)", "1", "1", "0", "0", "0", "–", "–"],
        ["total", "1,216", "4", "151k", "90,000", "48,020", "2.00", "$4.20"],
    ]
    ends = {len(row) for row in rows if row}
    assert len(ends) == 1


def test_a_group_by_several_is_in_the_order_of_the_columns(verb: Verb, capsys: Out) -> None:
    assert verb("--by", "model,day", "--key", "ada") == 0
    _, *rows = capsys.readouterr().out.splitlines()
    told = rows_of("\n".join(rows))
    assert [row[:3] for row in told] == [
        ["DAY", "MODEL", "REQUESTS"],
        ["2026-11-20", "embed", "10"],
        ["2026-11-21", "chat", "1,200"],
        ["total", "1,210", "3"],
    ]
    assert told[1][-2:] == ["0.0005", "$0.0010"]


def test_json_has_the_rows_and_the_total(verb: Verb, capsys: Out) -> None:
    assert verb("--json", "--model", "chat") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["since"], told["until"], told["by"]) == (
        "vllm-console/usage/1",
        "2026-11-14",
        "2026-11-21",
        ["key"],
    )
    assert told["rows"][0] == {
        "key": "ada",
        "key_id": 1,
        "revoked": False,
        "requests": 1200,
        "failed": 3,
        "prompt": 150_000,
        "cached": 90_000,
        "generated": 48_000,
        "gpu_hours": 2.0,
        "cost": 4.2,
    }
    assert told["rows"][1]["cost"] is None
    assert told["total"]["requests"] == sum(row["requests"] for row in told["rows"]) == 1201


def test_csv_has_a_line_a_group_with_plain_numbers(verb: Verb, capsys: Out) -> None:
    assert verb("--csv", "--by", "key,model,day") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["day"], row["key"], row["model"]) for row in rows] == [
        ("2026-11-20", "ada", "embed"),
        ("2026-11-21", "ada", "chat"),
        ("2026-11-21", "bob", "chat"),
    ]
    assert (rows[1]["prompt"], rows[1]["gpu_hours"], rows[1]["cost"]) == ("150000", "2.0", "4.2")
    assert rows[2]["cost"] == ""


@pytest.mark.parametrize(
    ("words", "days"),
    [
        (["--since", "2026-11-20", "--until", "2026-11-21"], ["2026-11-20"]),
        (["--since", "today"], ["2026-11-21"]),
        (["--since", "yesterday", "--until", "today"], ["2026-11-20"]),
        (["--since", "2026-11-01", "--until", "2026-11-02"], ["2026-11-01"]),
        (["--since", "2026-11-20 23:59"], ["2026-11-20", "2026-11-21"]),
    ],
)
def test_a_span_holds_the_whole_days_it_touches(
    verb: Verb, words: list[str], days: list[str], capsys: Out
) -> None:
    assert verb("--json", "--by", "day", *words) == 0
    assert [row["day"] for row in json.loads(capsys.readouterr().out)["rows"]] == days


def test_no_gateway_yet_is_said(empty: Verb, capsys: Out) -> None:
    assert empty() == 0
    assert capsys.readouterr().out == "no usage: no gateway of t has counted anything yet\n"
    assert empty("--csv") == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert empty("--json") == 0
    assert json.loads(capsys.readouterr().out)["total"]["requests"] == 0


def test_a_span_without_usage_is_said(verb: Verb, capsys: Out) -> None:
    assert verb("--model", "chat", "--key", "anonymous") == 0
    assert capsys.readouterr().out == (
        "no usage by the key anonymous of the model chat from 2026-11-14 to 2026-11-21 (UTC); "
        "--since TIME looks further back\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--key", "adda"], 4, 'no key "adda"; did you mean "ada"?'),
        (["--by", "modle"], 2, 'did you mean "model"?'),
        (["--by", ""], 2, "takes key, model and day"),
        (["--since", "soon"], 2, 'not a time: "soon"'),
        (["--since", "now"], 2, "is not before"),
        (["--since", "2026-11-20", "--until", "2026-11-20"], 2, "is not before"),
    ],
)
def test_a_mistake_is_one_line(
    verb: Verb, words: list[str], code: int, said: str, capsys: Out
) -> None:
    assert verb(*words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("amount", "text"),
    [(None, "–"), (0.0, "$0.00"), (0.0042, "$0.0042"), (1.0, "$1.00"), (12345.678, "$12,345.68")],
)
def test_dollars_are_written_to_the_cent_or_finer(amount: float | None, text: str) -> None:
    assert usage.dollars(amount) == text
