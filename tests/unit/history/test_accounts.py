"""gateway.sqlite: what keys and usage survive, who sees what when, and what is said of trouble."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.history import file
from vllm_console.history.account_rows import (
    CREATED,
    FLEET_FILE,
    GROUPS,
    NOBODY,
    Asked,
    By,
    KeyRow,
    Line,
    Terms,
    Use,
    day_of,
    hash_of,
    keys_in,
    made_secret,
    usage_in,
)
from vllm_console.history.accounts import Accounts, accounts_read
from vllm_console.history.accounts_schema import APPLICATION_ID, STEPS
from vllm_console.history.schema import step_up, version_of

NOW = 1_795_255_200.0
"""2026-11-21 10:00 UTC."""
DAY = "2026-11-21"
VERSION_1 = Path(__file__).with_name("versions") / "gateway-1.sql"
ADA, BOB = hash_of(b"ada's secret"), hash_of(b"bob's secret")
ALWAYS = Asked("0000", "9999")


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    """A file that is not there yet."""
    with closing(Accounts(tmp_path / "gateway.sqlite")) as made:
        yield made


@pytest.fixture
def other(accounts: Accounts) -> Iterator[Accounts]:
    """The same file as another process has it."""
    with closing(Accounts(accounts.path)) as made:
        yield made


def lines(path: Path, asked: Asked = ALWAYS) -> list[Line]:
    with accounts_read(path) as connection:
        return usage_in(connection, asked)


def by(*groups: By) -> Asked:
    return Asked("0000", "9999", groups)


def named(accounts: Accounts) -> dict[str, KeyRow]:
    return {row.name: row for row in accounts.keys(NOW)}


def test_a_key_comes_back_as_it_was_made(accounts: Accounts) -> None:
    terms = Terms(("chat", "ünï"), 2, 60, 100_000, 4, 12.5, int(NOW) + 9)
    number = accounts.create("ada", ADA, "vc-abcdEFG", terms, NOW)
    accounts.close()
    assert accounts.keys(NOW) == [
        KeyRow(number, "ada", ADA, "vc-abcd", CREATED, int(NOW), None, None, terms)
    ]


def test_only_the_hash_of_a_secret_is_in_the_file(accounts: Accounts) -> None:
    secret = made_secret()
    accounts.create("ada", hash_of(secret.encode()), secret, Terms(), NOW)
    held = b"".join(each.read_bytes() for each in accounts.path.parent.iterdir())
    assert secret[:7].encode() in held
    assert secret[:8].encode() not in held


def test_secrets_are_long_and_never_the_same() -> None:
    made = {made_secret() for _ in range(100)}
    assert len(made) == 100
    assert {(len(secret), secret[:3]) for secret in made} == {(46, "vc-")}


def test_the_file_is_ours_and_for_its_owner_alone(accounts: Accounts) -> None:
    accounts.create("ada", ADA, "", Terms(), NOW)
    with accounts_read(accounts.path) as connection:
        header = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "journal_mode")
        ]
    assert header == [APPLICATION_ID, len(STEPS), "wal"]
    assert {each.stat().st_mode & 0o777 for each in accounts.path.parent.iterdir()} == {0o600}


def test_a_name_is_one_keys_for_as_long_as_it_holds(accounts: Accounts) -> None:
    first = accounts.create("ada", ADA, "", Terms(), NOW)
    with pytest.raises(InvalidInput, match="a key ada is there already"):
        accounts.create("ada", BOB, "", Terms(), NOW)
    accounts.revoke("ada", NOW + 5)
    second = accounts.create("ada", BOB, "", Terms(), NOW + 6)
    assert second > first
    with accounts_read(accounts.path) as connection:
        found = [(row.id, row.revoked) for row in keys_in(connection, NOW, revoked=True)]
    assert found == [(second, None), (first, int(NOW) + 5)]
    assert [row.id for row in accounts.keys(NOW)] == [second]


@pytest.mark.parametrize("name", ["", "a b", "-a", "anonymous", "a" * 65, "a\n"])
def test_what_cannot_be_a_name_is_said(accounts: Accounts, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a key"):
        accounts.create(name, ADA, "", Terms(), NOW)


def test_editing_changes_what_is_given_and_nothing_else(accounts: Accounts) -> None:
    accounts.create("ada", ADA, "", Terms(("chat",), rpm=60, tpm=500), NOW)
    changed = accounts.edit("ada", {"models": None, "rpm": 7, "budget": 2.5})
    assert changed == Terms(None, rpm=7, tpm=500, budget=2.5)
    assert named(accounts)["ada"].terms == changed
    assert accounts.edit("ada", {}) == changed


@pytest.mark.parametrize(
    "act", [lambda a: a.edit("adda", {"rpm": 1}), lambda a: a.revoke("adda", NOW)]
)
def test_a_key_that_is_not_there_is_said_with_the_nearest(
    accounts: Accounts, act: Callable[[Accounts], object]
) -> None:
    accounts.create("ada", ADA, "", Terms(), NOW)
    with pytest.raises(NotFound, match='no key "adda"; did you mean "ada"'):
        act(accounts)


def test_the_fleet_files_keys_come_and_go_with_it(accounts: Accounts) -> None:
    assert accounts.keep({"ada": ADA, "bob": BOB}, NOW) == []
    before = named(accounts)
    assert {row.origin for row in before.values()} == {FLEET_FILE}
    assert {row.terms for row in before.values()} == {Terms(max_class=0)}
    accounts.edit("ada", {"rpm": 5})
    assert accounts.keep({"ada": BOB, "bob": ADA}, NOW) == []
    after = named(accounts)
    assert {name: row.hash for name, row in after.items()} == {"ada": BOB, "bob": ADA}
    assert [after[name].id for name in after] == [before[name].id for name in before]
    assert after["ada"].terms.rpm == 5
    assert accounts.keep({"bob": ADA}, NOW) == []
    assert list(named(accounts)) == ["bob"]


def test_a_secret_that_cannot_be_read_now_leaves_its_key_as_it_is(accounts: Accounts) -> None:
    accounts.keep({"ada": ADA}, NOW)
    before = named(accounts)
    assert accounts.keep({"ada": None, "bob": None}, NOW) == []
    assert named(accounts) == before


def test_a_key_of_the_fleet_file_is_not_revoked_elsewhere(accounts: Accounts) -> None:
    accounts.keep({"ada": ADA}, NOW)
    with pytest.raises(InvalidInput, match=r"stands in fleet\.toml"):
        accounts.revoke("ada", NOW)


def test_keys_that_cannot_be_kept_are_told_and_hold_no_longer(accounts: Accounts) -> None:
    accounts.create("eve", hash_of(b"e"), "", Terms(), NOW)
    accounts.keep({"ada": ADA}, NOW)
    told = accounts.keep({"eve": BOB, "ada": hash_of(b"e"), "bob": BOB, "cid": BOB}, NOW)
    assert [line.partition(":")[0] for line in told] == [
        "gateway.keys.eve",
        "gateway.keys.ada",
        "gateway.keys.cid",
    ]
    assert {name: row.hash for name, row in named(accounts).items()} == {
        "eve": hash_of(b"e"),
        "bob": BOB,
    }


def test_use_adds_up_over_batches_and_nothing_unpriced_costs(accounts: Accounts) -> None:
    use = Use(2, 1, 30, 10, 20, 1.5, 0.25)
    accounts.add_usage({(DAY, 1, "chat"): use, (DAY, NOBODY, "chat"): Use(1, gpu_seconds=2.0)}, NOW)
    accounts.add_usage({(DAY, 1, "chat"): Use(1, 0, 1, 1, 1, 0.5, None)}, NOW)
    ada, nobody = sorted(lines(accounts.path, by("key")), key=lambda line: -line.use.requests)
    assert (ada.use, ada.key, ada.revoked) == (Use(3, 1, 31, 11, 21, 2.0, 0.25), "key 1", True)
    assert (nobody.use, nobody.key) == (Use(1, gpu_seconds=2.0), "anonymous")


USES = st.builds(
    Use,
    *(st.integers(0, 10**6) for _ in range(5)),
    gpu_seconds=st.integers(0, 10**6).map(float),
    cost=st.none() | st.integers(0, 10**6).map(float),
)
WHOSE = st.tuples(
    st.sampled_from([DAY, "2026-11-20", "2026-10-31"]),
    st.integers(0, 2),
    st.sampled_from(["chat", "embed"]),
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.dictionaries(WHOSE, USES, max_size=6), max_size=4), st.sets(st.sampled_from(GROUPS))
)
def test_a_report_is_the_sum_of_its_batches_by_any_group(
    batches: list[dict[tuple[str, int, str], Use]], groups: set[By]
) -> None:
    expected: dict[tuple[object, ...], Use] = {}
    for batch in batches:
        for (day, key, model), use in batch.items():
            told = {"day": day, "key": key, "model": model}
            group = tuple(told[name] for name in GROUPS if name in groups)
            expected.setdefault(group, Use()).add(use)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.sqlite"
        with closing(Accounts(path)) as accounts:
            for batch in batches:
                accounts.add_usage(batch, NOW)
        found = {} if not path.exists() else lines(path, by(*groups))
    columns = {"day": "day", "key": "key_id", "model": "model"}
    assert {
        tuple(getattr(line, columns[name]) for name in GROUPS if name in groups): line.use
        for line in found
    } == expected


def test_a_span_is_whole_days_with_both_ends(accounts: Accounts) -> None:
    days = ("2026-10-31", "2026-11-01", "2026-11-30", "2026-12-01")
    accounts.add_usage({(day, 0, "m"): Use(1) for day in days}, NOW)
    november = lines(accounts.path, Asked("2026-11-01", "2026-11-30", ("day",)))
    assert [line.day for line in november] == ["2026-11-01", "2026-11-30"]
    assert lines(accounts.path, Asked("2026-11-02", "2026-11-29")) == []


def test_a_report_of_one_key_holds_every_key_of_its_name(accounts: Accounts) -> None:
    first = accounts.create("ada", ADA, "", Terms(), NOW)
    accounts.revoke("ada", NOW)
    second = accounts.create("ada", BOB, "", Terms(), NOW)
    batch = {(DAY, number, "m"): Use(number + 1) for number in (NOBODY, first, second)}
    accounts.add_usage(batch, NOW)
    (line,) = lines(accounts.path, Asked(DAY, DAY, key="ada"))
    assert line.use.requests == first + second + 2
    (line,) = lines(accounts.path, Asked(DAY, DAY, key="anonymous"))
    assert line.use.requests == 1
    assert lines(accounts.path, Asked(DAY, DAY, model="n")) == []


def test_a_key_knows_what_it_spent_in_the_month_and_when_it_was_used(accounts: Accounts) -> None:
    number = accounts.create("ada", ADA, "", Terms(), NOW)
    days = {"2026-10-31": 1.0, "2026-11-01": 2.0, "2026-11-30": 4.0, "2026-12-01": 8.0}
    accounts.add_usage({(day, number, "m"): Use(cost=cost) for day, cost in days.items()}, NOW)
    accounts.add_usage({(DAY, number, "m"): Use(1)}, NOW - 50)
    (row,) = accounts.keys(NOW)
    assert (row.spent, row.last_used) == (6.0, int(NOW))


def test_a_day_is_of_utc() -> None:
    assert [day_of(NOW + hours * 3600) for hours in (-10.001, -10, 14)] == [
        "2026-11-20",
        DAY,
        "2026-11-22",
    ]


def test_a_change_of_another_process_is_seen_and_ones_own_is_not(
    accounts: Accounts, other: Accounts
) -> None:
    assert [accounts.changed(), accounts.changed()] == [True, False]
    accounts.create("ada", ADA, "", Terms(), NOW)
    assert not accounts.changed()
    other.edit("ada", {"rpm": 3})
    assert [accounts.changed(), accounts.changed()] == [True, False]
    assert named(accounts)["ada"].terms.rpm == 3


def test_a_file_that_was_taken_away_is_begun_anew(accounts: Accounts) -> None:
    accounts.create("ada", ADA, "", Terms(), NOW)
    accounts.keys(NOW)
    assert [accounts.changed(), accounts.changed()] == [True, False]
    accounts.path.unlink()
    assert accounts.changed()
    assert accounts.keys(NOW) == []


def test_one_thread_after_another_may_use_it(accounts: Accounts) -> None:
    from concurrent.futures import ThreadPoolExecutor

    accounts.create("ada", ADA, "", Terms(), NOW)
    accounts.close()
    with ThreadPoolExecutor(1) as pool:
        assert list(pool.submit(named, accounts).result()) == ["ada"]
        pool.submit(accounts.close).result()


_MAKES_A_KEY = """
import sys
from pathlib import Path
from vllm_console.history.account_rows import Terms, hash_of
from vllm_console.history.accounts import Accounts
sys.stdin.readline()
name = sys.argv[2]
Accounts(Path(sys.argv[1])).create(name, hash_of(name.encode()), "", Terms(), 0.0)
"""


def test_processes_that_begin_the_file_at_once_all_get_their_key(accounts: Accounts) -> None:
    names = [f"k{number}" for number in range(6)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _MAKES_A_KEY, str(accounts.path), name],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    for each in started:
        assert each.communicate(timeout=60)[1] == ""
    assert sorted(named(accounts)) == names


@pytest.mark.parametrize("version", [0, 1])
def test_a_file_of_every_version_is_stepped_up_and_keeps_its_rows(
    accounts: Accounts, version: int
) -> None:
    if version:
        with closing(sqlite3.connect(accounts.path)) as connection:
            connection.executescript(VERSION_1.read_text())
    accounts.create("bob", BOB, "", Terms(), NOW)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        step_up(fresh, APPLICATION_ID, STEPS)
        with accounts_read(accounts.path) as connection:
            assert version_of(connection) == len(STEPS)
            assert shape(connection) == shape(fresh)
    if version:
        assert accounts.keys(1_767_225_700.0)[0] == KeyRow(
            7, "ada", hash_of(b"abc"), "vc-abcd", CREATED, 1_767_225_600, None, 1_767_225_660,
            Terms(("chat",), 0, 60, 100_000, 4, 50.0, 1_798_761_600), 0.25,
        )  # fmt: skip
        assert lines(accounts.path) == [Line(Use(2, 1, 30, 10, 20, 1.5, 0.25))]


def shape(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    names = connection.execute("SELECT name FROM sqlite_schema").fetchall()
    return {
        name: [tuple(row) for row in connection.execute(f"PRAGMA table_info({name})")]
        for (name,) in map(tuple, names)
    }


def test_a_file_that_is_not_there_or_empty_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), accounts_read(tmp_path / "none"):
        pass
    (tmp_path / "empty").touch()
    with accounts_read(tmp_path / "empty") as connection:
        assert keys_in(connection, NOW) == []
        assert usage_in(connection, ALWAYS) == []


def garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def anothers(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 42")


@pytest.mark.parametrize(
    ("done", "said"),
    [(garbage, "is damaged"), (newer, "newer vllm-console"), (anothers, "another")],
)
def test_a_file_that_is_not_ours_to_write_is_said_in_one_line_and_left_alone(
    accounts: Accounts, done: Callable[[Path], None], said: str
) -> None:
    accounts.create("ada", ADA, "", Terms(), NOW)
    accounts.close()
    done(accounts.path)
    before = accounts.path.read_bytes()
    acts: list[Callable[[], object]] = [
        accounts.changed,
        lambda: accounts.keys(NOW),
        lambda: accounts.create("bob", BOB, "", Terms(), NOW),
        lambda: accounts.add_usage({(DAY, 0, "m"): Use(1)}, NOW),
    ]
    for act in acts:
        with pytest.raises(ConsoleError, match=said) as raised:
            act()
        assert "\n" not in str(raised.value)
        assert str(accounts.path) in str(raised.value)
    assert accounts.path.read_bytes() == before


@pytest.mark.parametrize("done", [garbage, newer])
def test_reading_says_the_same(accounts: Accounts, done: Callable[[Path], None]) -> None:
    accounts.create("ada", ADA, "", Terms(), NOW)
    accounts.close()
    done(accounts.path)
    with pytest.raises(ConsoleError), accounts_read(accounts.path) as connection:
        keys_in(connection, NOW)


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConsoleError, match="No such file or directory"):
        Accounts(tmp_path / "none" / "gateway.sqlite").keys(NOW)


def test_a_full_disk_takes_all_of_a_batch_or_nothing(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.add_usage({(DAY, 0, "m"): Use(1)}, NOW)
    accounts.close()
    real = file.open_to_write

    def small(*args: object) -> tuple[sqlite3.Connection, bool]:
        connection, new = real(*args)  # type: ignore[arg-type]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")  # says SQLITE_FULL as a disk does
        return connection, new

    monkeypatch.setattr(file, "open_to_write", small)
    batch = {(DAY, 0, f"{number:05}" * 20): Use(1) for number in range(2000)}
    with pytest.raises(ConsoleError, match="full"):
        accounts.add_usage(batch, NOW)
    monkeypatch.setattr(file, "open_to_write", real)
    accounts.close()
    assert [line.use.requests for line in lines(accounts.path)] == [1]
    accounts.add_usage(batch, NOW)
    assert [line.use.requests for line in lines(accounts.path)] == [2001]


def test_the_gateway_may_import_it() -> None:
    heavy = "{'pydantic', 'sqlmodel', 'sqlalchemy', 'textual', 'rich', 'psutil', 'httpx'}"
    code = (
        f"import sys, vllm_console.history.accounts as a; assert not {heavy} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
