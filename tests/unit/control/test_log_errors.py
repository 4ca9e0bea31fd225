"""Errors counted in a worker's log as it grows."""

from __future__ import annotations

from pathlib import Path

from vllm_console.control.log_errors import LogWatch

AT = "11-20 12:00:00"


class _Clock:
    """A fake clock that moves when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def watched(tmp_path: Path, text: str = "") -> tuple[LogWatch, Path, _Clock]:
    """A watch that has seen the log of `w-1` once, with this in it."""
    log, clock = tmp_path / "w-1.log", _Clock()
    log.write_text(text, encoding="utf-8")
    watch = LogWatch(lambda worker: tmp_path / f"{worker}.log", clock)
    watch.look(["w-1"])
    return watch, log, clock


def grow(log: Path, text: str) -> None:
    """The worker writes."""
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


def test_errors_and_warnings_count_from_where_the_log_ended(tmp_path: Path) -> None:
    watch, log, clock = watched(tmp_path, f"ERROR {AT} [a.py:1] long ago\n")
    assert watch.told()["w-1"].errors == 0
    grow(log, f"(EngineCore pid=7) ERROR {AT} [core.py:3] it broke\nINFO {AT} [a.py:1] fine\n")
    grow(log, f"WARNING {AT} [b.py:2] beware\nERROR:    Exception in ASGI application\n")
    clock.now = 130.0
    watch.look(["w-1"])
    clock.now = 142.0
    told = watch.told()["w-1"]
    assert (told.errors, told.warnings) == (2, 1)
    assert told.newest == "Exception in ASGI application"
    assert (told.since_s, told.newest_age_s) == (42.0, 12.0)


def test_a_traceback_counts_once_and_its_last_line_tells(tmp_path: Path) -> None:
    watch, log, _ = watched(tmp_path)
    lines = ("Traceback (most recent call last):", '  File "x.py"', "ValueError: too long")
    grow(log, "".join(f"(APIServer pid=7) ERROR {AT} [a.py:9] {line}\n" for line in lines))
    watch.look(["w-1"])
    told = watch.told()["w-1"]
    assert (told.errors, told.newest) == (1, "ValueError: too long")
    grow(log, "(APIServer pid=7) ERROR 11-20 12:00:01 [a.py:9] again\n")
    watch.look(["w-1"])
    assert watch.told()["w-1"].errors == 2


def test_a_line_written_in_two_pieces_is_one(tmp_path: Path) -> None:
    watch, log, _ = watched(tmp_path)
    grow(log, f"ERROR {AT} [a.py")
    watch.look(["w-1"])
    assert watch.told()["w-1"].errors == 0
    grow(log, ":9] whole\n")
    watch.look(["w-1"])
    told = watch.told()["w-1"]
    assert (told.errors, told.newest) == (1, "whole")


def test_secrets_are_blanked(tmp_path: Path) -> None:
    watch, log, _ = watched(tmp_path)
    grow(log, f"ERROR {AT} [a.py:9] cannot log in with hf_abcdefghijkl\n")
    watch.look(["w-1"])
    told = watch.told()["w-1"]
    assert told.newest is not None
    assert "abcdefgh" not in told.newest


def test_a_worker_that_is_gone_is_forgotten_and_one_without_a_log_is_not_told(
    tmp_path: Path,
) -> None:
    watch, _, _ = watched(tmp_path)
    watch.look(["w-2"])
    assert watch.told() == {}
