"""The command line as a user types it: one line for a mistake, and the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_console.cli.main import VERBS, build_parser, main
from vllm_console.cli.status import healthy, table
from vllm_console.snapshot import Daemon, Failure, Load, Model, Snapshot, Worker, to_json

FLEET = '[fleet]\nname = "t"\n[models.a]\nsource = "tiny:small"\n'


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a fleet.toml, as the place to stand in."""
    (tmp_path / "fleet.toml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        assert "usage: vllm-console" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["completion", "bash"]])
def test_a_reader_that_is_gone_is_no_error(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "vllm_console", *words]
    with os.fdopen(writing) as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_disk_that_is_full_is_one_line() -> None:
    command = [sys.executable, "-m", "vllm_console", "completion", "bash"]
    with open("/dev/full", "w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "vllm-console: standard output: No space left on device\n"


def test_every_verbs_line_is_its_modules_own() -> None:
    from importlib import import_module

    for verb, summary in VERBS.items():
        assert summary == import_module(f"vllm_console.cli.{verb}").SUMMARY


def test_a_misspelt_verb_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["staus"]) == 2
    assert capsys.readouterr().err == 'vllm-console: no verb "staus"; did you mean "status"?\n'


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "--json"],
        ["load", "a"],
        ["unload", "a"],
        ["restart", "a"],
        ["events"],
        ["down"],
    ],
)
def test_without_a_daemon_verbs_say_so_and_exit_3(
    fleet: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("vllm-console: ")


def test_status_json_without_a_daemon_is_still_the_object(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--json"]) == 3
    status = json.loads(capsys.readouterr().out)
    assert status["schema"] == "vllm-console/status/1"
    assert status["daemon"]["running"] is False


def test_a_missing_fleet_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["up", "-d"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["up", "-d", "--fleet", "nowhere.toml"]) == 2
    assert "nowhere.toml: no such file" in capsys.readouterr().err


def test_a_broken_fleet_file_starts_nothing(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fleet / "fleet.toml").write_text("[fleet\n")
    assert main(["up", "-d"]) == 2
    assert "fleet.toml" in capsys.readouterr().err
    (fleet / "fleet.toml").write_text(FLEET + "sorce = 1\n")
    assert main(["up", "-d"]) == 2
    assert 'did you mean "source"' in capsys.readouterr().err
    assert not (fleet / "state").exists()


def test_the_console_needs_a_terminal(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "needs a terminal" in capsys.readouterr().err


def test_the_consoles_options_need_no_verb(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--readonly", "--theme", "nord", "--refresh", "2"]) == 2
    assert "needs a terminal" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["load"],
        ["status", "--jsn"],
        ["completion", "tcsh"],
        ["up", "--fleet"],
        ["--nope"],
        ["logs", "a", "-n", "-5"],
        ["events", "-n", "many"],
        ["load", "a", "--timeout", "nan"],
        ["down", "--timeout", "-1"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--help" in err


def test_fleet_may_stand_before_or_after_the_verb(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--fleet", "x.toml", "status"], ["status", "--fleet", "x.toml"]):
        assert main(words) == 2
        assert "x.toml" in capsys.readouterr().err


def test_sets_before_and_after_the_verb_both_hold() -> None:
    args = build_parser("config").parse_args(["--set", "a=1", "config", "--set", "b=2"])
    assert (args.set, args.sets_after_verb) == (["a=1"], ["b=2"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)
    assert "headless" in script


def status_of(worker: Worker, wanted: int = 1, ready: int = 0) -> dict[str, object]:
    model = Model("a", "x", 1, worker.state, wanted, ready, load=Load(), workers=(worker,))
    return dict(to_json(Snapshot("t", "f", Daemon(True, 7, "0", 61.0), models=(model,))))


def test_the_table_tells_a_failure_and_its_remedy() -> None:
    failure = Failure("kv-too-small", "the telling line", "set max_model_len", "t")
    status = status_of(Worker("a-1", "failed", failure=failure))
    text = table(status)
    assert "the telling line" in text
    assert "→ set max_model_len" in text
    assert not healthy(status)


def test_the_table_tells_what_a_worker_waits_for() -> None:
    text = table(status_of(Worker("a-1", "queued", reason="needs an api key: set api_key")))
    assert text.splitlines()[-1] == "  a-1: needs an api key: set api_key"
    assert "a-1:" not in table(status_of(Worker("a-1", "ready", reason="x")))


def test_the_table_shows_the_stage_of_a_start_and_dashes_for_the_unknown() -> None:
    text = table(status_of(Worker("a-1", "starting", stage="weights", progress=0.4)))
    assert "starting (weights 40%)" in text
    assert "–" in text
    assert "None" not in text


def test_healthy_is_every_wanted_worker_ready() -> None:
    assert healthy(status_of(Worker("a-1", "ready"), wanted=1, ready=1))
    assert not healthy(status_of(Worker("a-1", "ready"), wanted=2, ready=1))
    assert healthy(status_of(Worker("a-1", "stopped"), wanted=0, ready=0))
    assert healthy(status_of(Worker("a-1", "asleep"), wanted=1, ready=0))
    assert not healthy(status_of(Worker("a-1", "asleep"), wanted=2, ready=0))
