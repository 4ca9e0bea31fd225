"""The access log: lines, batches, rotation, and a disk that fails."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gateway.test_measures import request
from vllm_console.gateway.access_log import BATCH, AccessLog
from vllm_console.gateway.access_log import lines as lines_of
from vllm_console.gateway.measures import Record


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def told(record: Record) -> dict[str, Any]:
    [text] = lines_of([record]).splitlines()
    return dict(json.loads(text))


def test_a_line_says_what_became_of_a_request_and_nothing_of_its_text() -> None:
    found = told(request(at=1_700_000_000.25, path="/v1/completions", bytes_out=77))
    assert found == {
        "at": "2023-11-14T22:13:20.250Z", "id": "r-1", "key": "alice", "model": "qwen",
        "worker": "qwen-1", "class": "normal", "path": "/v1/completions", "status": 200,
        "stream": True, "queue_s": 0.001, "ttft_s": 0.2, "e2e_s": 1.2, "prompt_tokens": 10,
        "cached_tokens": 4, "generated_tokens": 11, "finish": "stop", "gpu_s": 0.0, "cost": 0.0,
        "retries": 0, "bytes_out": 77, "error": None,
    }  # fmt: skip


def test_what_is_not_known_is_null() -> None:
    found = told(request(key="", model="", worker="", queue_s=None, ttft_s=None))
    assert [found[name] for name in ("key", "model", "worker", "queue_s", "ttft_s")] == [None] * 5


def test_times_are_told_to_the_microsecond() -> None:
    found = told(
        request(at=1_700_000_000.9996, queue_s=2e-7, ttft_s=0.0123456789, e2e_s=59.9999996)
    )
    assert found["at"] == "2023-11-14T22:13:20.999Z"
    assert (found["queue_s"], found["ttft_s"], found["e2e_s"]) == (0.0, 0.012346, 60.0)


def test_lines_are_written_in_batches_to_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog(path)
    log.flush()
    assert not path.exists()
    for number in range(3):
        log.add(request(id=f"r-{number}"))
    assert not path.exists()
    log.flush()
    log.add(request(id="r-3"))
    log.flush()
    assert [found["id"] for found in lines(path)] == ["r-0", "r-1", "r-2", "r-3"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_files_rotate_by_size_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog(path, most_bytes=len(lines_of([request(id="r-00")])) * 2, files=3)
    for number in range(10):
        log.add(request(id=f"r-{number:02}"))
        log.flush()
    names = sorted(found.name for found in tmp_path.iterdir())
    assert names == ["access.jsonl", "access.jsonl.1", "access.jsonl.2"]
    kept = [found["id"] for name in reversed(names) for found in lines(tmp_path / name)]
    assert kept == [f"r-{number:02}" for number in range(4, 10)]


def test_requests_stay_in_order_whether_their_lines_are_made_at_once_or_when_written(
    tmp_path: Path,
) -> None:
    log = AccessLog(tmp_path / "access.jsonl")
    for number in range(BATCH * 2 + 3):
        log.add(request(id=str(number)))
    log.flush()
    found = [int(each["id"]) for each in lines(tmp_path / "access.jsonl")]
    assert found == list(range(BATCH * 2 + 3))


def test_a_file_that_somebody_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog(path)
    log.add(request(id="r-1"))
    log.flush()
    path.rename(tmp_path / "moved")
    log.add(request(id="r-2"))
    log.flush()
    assert [found["id"] for found in lines(path)] == ["r-2"]


def test_trouble_is_told_once_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "gone"
    log = AccessLog(directory / "access.jsonl")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            log.add(request())
            log.flush()
        assert "No such file" in (log.trouble or "")
        directory.mkdir()
        log.add(request(id="r-after"))
        log.flush()
    assert log.trouble is None
    assert log.lost == 3
    assert len(caplog.records) == 2
    assert "3 were not" in caplog.messages[1]
    assert [found["id"] for found in lines(directory / "access.jsonl")] == ["r-after"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog(path)
    log.add(request(id="r-1"))
    log.flush()
    real, writes = os.write, 0

    def full(fd: int, data: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == 1:
            return real(fd, bytes(data)[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.add(request(id="r-2"))
        log.flush()
    assert "No space left" in (log.trouble or "")
    log.add(request(id="r-3"))
    log.flush()
    assert [found["id"] for found in lines(path)] == ["r-1", "r-3"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "access.jsonl").symlink_to(target)
    log = AccessLog(tmp_path / "access.jsonl")
    log.add(request())
    log.flush()
    assert log.trouble is not None
    assert not target.exists()


def test_too_many_lines_are_counted_and_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_console.gateway.access_log.WAITING", 5)
    log = AccessLog(tmp_path / "access.jsonl")
    for _ in range(8):
        log.add(request())
    log.flush()
    assert log.lost == 3
    assert len(lines(tmp_path / "access.jsonl")) == 5
    for _ in range(BATCH * 2):
        log.add(request())
    assert log.lost == 3 + BATCH * 2 - 5


def test_nothing_is_lost_between_two_threads(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.jsonl")
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            log.flush()

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(5000):
        log.add(request(id=str(number)))
    over.set()
    writer.join()
    log.flush()
    found = [int(each["id"]) for each in lines(tmp_path / "access.jsonl")]
    assert found == list(range(5000))
