"""The gateway's directory: the lock, and files that may be missing, damaged or of others."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from vllm_console.errors import ConsoleError
from vllm_console.gateway import writer as writing
from vllm_console.gateway.access_log import AccessLog
from vllm_console.gateway.keyring import Keyring
from vllm_console.gateway.ledger import Ledger
from vllm_console.gateway.place import (
    Config,
    Record,
    acquire,
    boot_id,
    is_held,
    read_config,
    read_record,
    read_table,
    start_time,
    write_config,
    write_record,
    write_table,
)
from vllm_console.gateway.table import Model, Table, Worker
from vllm_console.gateway.writer import Writer
from vllm_console.workers.shim import process

OPEN = Worker(id="m-1", port=1, revision=1)
GUARDED = Worker(id="m-2", port=2, revision=1, api_key="sk-very-secret")
TABLE = Table(version=3, models=(Model(name="m", workers=(OPEN, GUARDED)),))


def test_the_lock_is_held_by_one_and_freed_with_its_descriptor(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    lock = acquire(tmp_path)
    assert lock is not None
    assert is_held(tmp_path)
    assert acquire(tmp_path) is None
    os.close(lock)
    assert not is_held(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConsoleError, match=r"nowhere: no place for the gateway's files"):
        acquire(tmp_path / "nowhere")


def test_equal_configurations_have_equal_digests_and_no_other(tmp_path: Path) -> None:
    write_config(tmp_path, Config(port=1))
    assert read_config(tmp_path).digest == Config(port=1).digest != Config(port=2).digest
    assert read_config(tmp_path) == Config(port=1)


@pytest.mark.parametrize("content", [None, "", "{", '{"port": "x"}', "[]"])
def test_a_configuration_that_is_none_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConsoleError, match=r"config\.json: .*`vllm-console up -d`") as raised:
        read_config(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_record_names_one_process_of_one_boot(tmp_path: Path) -> None:
    start = start_time(os.getpid())
    seen = process(os.getpid())
    assert seen is not None
    assert seen[0] == start
    record = Record(
        pid=os.getpid(), start=start, boot=boot_id(), version="1", url="u", started_at=1.0
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert record.is_of(start)
    assert not record.is_of(start + 1)


@pytest.mark.parametrize("content", [None, "", "null", '{"pid": 1}'])
def test_a_record_or_table_that_cannot_be_read_is_none(tmp_path: Path, content: str | None) -> None:
    for name in ("record.json", "table.json"):
        if content is not None:
            (tmp_path / name).write_text(content)
    assert read_record(tmp_path) is None
    assert read_table(tmp_path) is None


def test_a_kept_table_holds_no_key_and_no_worker_that_wants_one(tmp_path: Path) -> None:
    write_table(tmp_path, TABLE)
    file = tmp_path / "table.json"
    assert b"secret" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = read_table(tmp_path)
    assert kept is not None
    assert (kept.version, kept.models[0].workers) == (3, (OPEN,))


def test_the_writer_keeps_the_newest_table_and_takes_in_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LOOK_S", 0.01)
    looked = threading.Event()
    ledger = Ledger(tmp_path / "gateway.sqlite", Keyring())
    access = AccessLog(tmp_path / "access.jsonl")
    writer = Writer(tmp_path, ledger, access, lambda rows: looked.set())
    writer.table = TABLE
    writer.start()
    assert looked.wait(20)
    writer.finish()
    assert not writer.is_alive()
    kept = read_table(tmp_path)
    assert kept is not None
    assert kept.version == 3


def test_a_table_that_cannot_be_kept_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "table.json.new").mkdir()
    ledger = Ledger(tmp_path / "gateway.sqlite", Keyring())
    access = AccessLog(tmp_path / "access.jsonl")
    writer = Writer(tmp_path, ledger, access, lambda rows: None)
    writer.table = TABLE
    writer.start()
    writer.finish()
    assert "the routing table cannot be kept" in caplog.text


def test_a_log_that_grew_long_loses_its_older_lines_while_somebody_appends(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_bytes(b"".join(b"line %07d\n" % number for number in range(400_000)))
    with log.open("ab", buffering=0) as appending:
        writing._shorten(log)
        appending.write(b"the newest\n")
    lines = log.read_bytes().splitlines()
    assert log.stat().st_size <= writing.LOG_KEPT + 11
    assert (lines[-2], lines[-1]) == (b"line 0399999", b"the newest")
    assert lines[0].startswith(b"line ")
