"""`vllm-console engines`, as a shell sees it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.unit.engines.fakes import DUMP, FakeUv, managed, script
from vllm_console.cli.main import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engines directory, on a machine with no vLLM elsewhere and a fake uv."""
    uv = FakeUv(tmp_path / "fake-uv")
    for variable, value in uv.environ.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("VLLM_CONSOLE_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "engines"


Captured = pytest.CaptureFixture[str]


def test_install_says_where_and_what_and_draws_stages_on_stderr(
    folder: Path, capsys: Captured
) -> None:
    assert main(["engines", "install", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"engine environment cpu: vLLM 0.32.0+cpu at {folder}/cpu/bin/vllm, ")
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "finding a Python",
        "resolving",
        "downloading",
        "installing",
        "compiling bytecode",
        "verifying",
    ]
    assert main(["engines", "install", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("engine environment cpu is there: vLLM 0.32.0+cpu")


def test_install_that_fails_is_one_line_and_exit_code_1(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "fake-uv" / "mode").write_text("no-network")
    assert main(["engines", "install", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == (
        "vllm-console: cannot reach the package index at https://index.example: "
        "Connection refused; nothing was installed"
    )
    assert main(["engines", "install", "gpu"]) == 2


def test_list_names_the_environments_and_what_vllm_means(folder: Path, capsys: Captured) -> None:
    managed(folder, "cpu", "vllm-0.32.0+cpu", device="cpu")
    assert main(["engines", "list"]) == 0
    head, row, meant = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "VLLM", "DEVICE", "SIZE", "PATH"]
    assert row.split() == ["cpu", "0.32.0+cpu", "cpu", "0", "MiB", f"{folder}/cpu"]
    assert meant == f"vllm means environment cpu: vLLM 0.32.0+cpu at {folder}/cpu/bin/vllm"


def test_list_as_json_is_one_object_with_null_for_what_is_not_there(
    folder: Path, capsys: Captured
) -> None:
    assert main(["engines", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == {
        "schema": "vllm-console/engines/1",
        "engines_dir": str(folder),
        "environments": [],
        "vllm": None,
    }
    managed(folder, "cpu", "vllm-0.32.0+cpu", device="cpu")
    main(["engines", "list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    (cpu,) = listed["environments"]
    assert cpu.pop("size_bytes") > 0
    assert cpu == {
        "name": "cpu",
        "version": "0.32.0+cpu",
        "device": "cpu",
        "path": f"{folder}/cpu",
    }
    assert listed["vllm"]["found"] == "environment cpu"


def test_list_without_environments_names_the_way_to_one(folder: Path, capsys: Captured) -> None:
    assert main(["engines", "list"]) == 0
    assert "`vllm-console engines install cpu`" in capsys.readouterr().out


class Keyboard(io.StringIO):
    """A terminal's input."""

    def isatty(self) -> bool:
        return True


def test_remove_asks_and_only_a_yes_removes(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = managed(folder, "cpu")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["engines", "remove", "cpu"]) == 2
    assert "say --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Keyboard("\n"))
    assert main(["engines", "remove", "cpu"]) == 1
    assert home.exists()
    monkeypatch.setattr("sys.stdin", Keyboard("y\n"))
    assert main(["engines", "remove", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(f"removed {home}: ")
    assert not home.exists()
    assert main(["engines", "remove", "cpu", "--yes"]) == 4


def test_flags_are_a_table_or_one_object(folder: Path, capsys: Captured) -> None:
    home = managed(folder, "cpu")
    script(home / "bin/python", f"#!/bin/sh\ncat <<'END'\n{json.dumps(DUMP)}\nEND\n")
    assert main(["engines", "flags", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["OPTION", "TAKES", "DEFAULT"],
        ["max_num_seqs", "int", "null"],
    ]
    assert "about 10 s, once" in err
    assert main(["engines", "flags", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    about = json.loads(out)
    assert (about["schema"], about["version"]) == ("vllm-console/flags/1", "0.32.0")
    assert [flag["name"] for flag in about["flags"]] == ["max_num_seqs"]
