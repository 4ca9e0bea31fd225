"""Usage on its way to the file, keys on their way from it, and what trouble with it costs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vllm_console.gateway.keyring import Key, Keyring
from vllm_console.gateway.ledger import Ledger
from vllm_console.gateway.measures import Record
from vllm_console.history import file
from vllm_console.history.account_rows import Asked, By, Terms, Use, hash_of, usage_in
from vllm_console.history.accounts import Accounts, accounts_read

NOW = 1_795_255_200.0
"""2026-11-21 10:00 UTC."""
TERMS = Terms(budget=5.0)
SECRET = b"vc-ada"


class Clock:
    """A fake clock that stands where it is put."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Gateway:
    """A ledger with its keyring and clocks, as the gateway's process has them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.monotonic, self.wall = Clock(1000.0), Clock(NOW)
        self.keyring = Keyring(monotonic=self.monotonic, wall=self.wall)
        self.ledger = Ledger(path, self.keyring, monotonic=self.monotonic, wall=self.wall)

    def look(self) -> bool:
        """One look, as the writer's thread has it each quarter of a second."""
        rows = self.ledger.look()
        if rows is not None:
            self.keyring.replace(rows)
        return rows is not None

    def lets_in(self, secret: bytes = SECRET) -> bool:
        return isinstance(self.keyring.find(b"Bearer " + secret, None), Key)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Accounts]:
    """The file as another process has it, with the key ada in it."""
    with closing(Accounts(tmp_path / "gateway.sqlite")) as made:
        made.create("ada", hash_of(SECRET), "vc-ada", TERMS, NOW)
        yield made


@pytest.fixture
def gateway(other: Accounts) -> Iterator[Gateway]:
    """A gateway that has begun."""
    made = Gateway(other.path)
    made.ledger.begin()
    yield made
    made.ledger.close()


def record(key: str = "ada", *, at: float = NOW, status: int = 200, **more: object) -> Record:
    return Record(id="r", at=at, key=key, model="chat", status=status, **more)  # type: ignore[arg-type]


def use(path: Path, *by: By) -> dict[object, Use]:
    with accounts_read(path) as connection:
        lines = usage_in(connection, Asked("0000", "9999", by))
    return {tuple(getattr(line, group) for group in by): line.use for line in lines}


def test_the_stored_keys_hold_before_the_first_request(gateway: Gateway) -> None:
    assert gateway.lets_in()
    assert gateway.ledger.trouble is None


def test_what_another_process_does_with_keys_holds_after_the_next_look(
    gateway: Gateway, other: Accounts
) -> None:
    gateway.look()
    assert not gateway.look()
    other.create("bob", hash_of(b"vc-bob"), "", Terms(), NOW)
    assert not gateway.lets_in(b"vc-bob")
    assert gateway.look()
    assert gateway.lets_in(b"vc-bob")
    other.revoke("ada", NOW)
    gateway.look()
    assert (gateway.lets_in(), gateway.lets_in(b"vc-bob")) == (False, True)


def test_writing_usage_is_no_change_of_keys(gateway: Gateway) -> None:
    gateway.look()
    gateway.ledger.record(record())
    gateway.ledger.write()
    assert not gateway.look()


def test_each_request_is_counted_where_it_belongs(gateway: Gateway) -> None:
    for each in (
        record(prompt=10, cached=4, generated=5, gpu_s=0.5, cost=0.25),
        record(prompt=1, gpu_s=0.5),
        record(status=503),
        record(error="worker-died"),
        record(status=499, error="gone"),
        record("anonymous", generated=7),
        record(at=NOW + 86_400, generated=9),
        record("", status=401),
        record("nobody-knows"),
    ):
        gateway.ledger.record(each)
    gateway.ledger.write()
    assert use(gateway.path, "day", "key", "model") == {
        ("2026-11-21", "ada", "chat"): Use(5, 2, 11, 4, 5, 1.0, 0.25),
        ("2026-11-21", "anonymous", "chat"): Use(1, generated=7),
        ("2026-11-22", "ada", "chat"): Use(1, generated=9),
    }


def test_what_was_written_is_not_written_again(gateway: Gateway) -> None:
    gateway.ledger.record(record())
    for _ in range(3):
        gateway.ledger.write()
    gateway.ledger.record(record())
    gateway.ledger.close()
    assert use(gateway.path)[()].requests == 2


def test_a_gateway_that_starts_knows_what_was_spent_this_month(gateway: Gateway) -> None:
    gateway.ledger.record(record(cost=4.0))
    gateway.ledger.record(record(at=NOW - 40 * 86_400, cost=50.0))
    gateway.ledger.close()
    following = Gateway(gateway.path)
    following.ledger.begin()
    (ada,) = following.keyring
    assert ada.spent(NOW) == 4.0


def failing(error: Exception) -> Callable[..., object]:
    def opened(*_: object) -> object:
        raise error

    return opened


def test_usage_waits_out_a_disk_that_takes_none(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.ledger.record(record(prompt=1))
    with monkeypatch.context() as broken:
        broken.setattr(file, "open_to_write", failing(OSError(28, "No space left on device")))
        gateway.ledger.write()
        assert "No space left" in (gateway.ledger.trouble or "")
        gateway.ledger.record(record(prompt=2))
        gateway.ledger.write()
    gateway.ledger.record(record("anonymous", prompt=4))
    gateway.ledger.write()
    assert gateway.ledger.trouble is None
    assert use(gateway.path, "key") == {
        ("ada",): Use(2, prompt=3),
        ("anonymous",): Use(1, prompt=4),
    }


def test_a_file_that_can_only_be_read_still_says_which_keys_hold(
    other: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(other.path)
    with monkeypatch.context() as broken:
        broken.setattr(file, "open_to_write", failing(OSError(30, "Read-only file system")))
        gateway.ledger.begin()
        assert gateway.lets_in()
        assert "Read-only file system" in (gateway.ledger.trouble or "")
    gateway.monotonic.at += 10
    gateway.look()
    assert gateway.ledger.trouble is None
    gateway.ledger.close()


def garbage(path: Path) -> None:
    aside = path.with_name("garbage")
    aside.write_bytes(b"no database" * 1000)
    aside.replace(path)


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("done", [garbage, newer])
def test_a_file_that_breaks_under_way_takes_no_key_away_and_opens_to_nobody(
    gateway: Gateway, other: Accounts, done: Callable[[Path], None]
) -> None:
    gateway.look()
    gateway.ledger.close()
    other.close()
    done(gateway.path)
    gateway.look()
    assert gateway.ledger.trouble is not None
    assert gateway.lets_in()
    assert not gateway.lets_in(b"vc-bob")
    assert not isinstance(gateway.keyring.find(None, None), Key)
    gateway.ledger.record(record())
    gateway.ledger.write()
    gateway.monotonic.at += 10
    gateway.look()
    assert gateway.lets_in()


def test_a_gateway_that_starts_over_a_broken_file_refuses_keys_for_now(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    path.write_bytes(b"no database" * 1000)
    gateway = Gateway(path)
    gateway.ledger.begin()
    answer = gateway.keyring.find(b"Bearer vc-ada", None)
    assert not isinstance(answer, Key)
    assert answer.status == 503
    path.unlink()
    gateway.monotonic.at += 10
    assert gateway.look()
    assert gateway.ledger.trouble is None
    assert not gateway.lets_in()
    gateway.ledger.close()


_COUNTS_FOR_EVER = """
import os, sys
from pathlib import Path
from vllm_console.gateway.keyring import Keyring
from vllm_console.gateway.ledger import Ledger
from vllm_console.gateway.measures import Record

keyring = Keyring()
keyring.allow_anonymous = True
ledger = Ledger(Path(sys.argv[1]), keyring)
ledger.begin()
counted = 0
while True:
    for _ in range(100):
        ledger.record(Record(id="r", at=1795255200.0, key="anonymous", model="m", prompt=3))
    counted += 100
    ledger.write()
    os.write(1, b"%d\\n" % counted)
"""


def test_a_kill_loses_at_most_what_was_not_written_yet(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    stored = 0
    for rounds in (3, 1, 20):
        with subprocess.Popen(
            [sys.executable, "-c", _COUNTS_FOR_EVER, str(path)], stdout=subprocess.PIPE
        ) as killed:
            assert killed.stdout is not None
            told = [int(killed.stdout.readline()) for _ in range(rounds)]
            os.kill(killed.pid, signal.SIGKILL)
            told += [int(line) for line in killed.stdout.read().splitlines(keepends=False)]
        counted = use(path)[()]
        assert stored + told[-1] <= counted.requests <= stored + told[-1] + 100
        assert counted.requests % 100 == 0
        assert counted.prompt == 3 * counted.requests
        stored = counted.requests
