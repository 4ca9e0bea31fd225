"""Scopes against a fake systemd-run: what it is asked, what the program gets, and doing without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_console.launchers.scope import Scopes

RECORDING = """#!{python} -I
import json, os, sys
with open({log!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if {works}:
    os.environ["INVOCATION_ID"] = "1234"
    words = sys.argv[sys.argv.index("--") + 1 :]
    os.execv(words[0], words)
sys.exit("Failed to connect to bus: No medium found")
"""
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


class Machine:
    """One on which a user manager runs, with a fake systemd-run that records its argv."""

    def __init__(self, root: Path, *, works: bool = True) -> None:
        self.log = root / "argv"
        self.environ = {"PATH": str(root), "XDG_RUNTIME_DIR": str(root), "HOME": "/home/ada"}
        (root / "systemd").mkdir()
        (root / "systemd" / "private").touch()
        program = root / "systemd-run"
        text = RECORDING.format(python=sys.executable, log=str(self.log), works=works)
        program.write_text(text)
        program.chmod(0o755)

    def asked(self) -> list[list[str]]:
        """The argv of every call."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def test_a_program_in_a_scope_gets_exactly_its_environment_and_no_value_is_on_a_command_line(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    scopes = Scopes(machine.environ, root=False)
    given = {"HF_TOKEN": "hf_secret", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    argv, environ = scopes.wrap([sys.executable, "-I", "-c", SHOW], given, "tiny-1")
    said = subprocess.run(argv, env=environ, capture_output=True, check=True, timeout=15).stdout
    assert json.loads(said) == given
    probe, call = machine.asked()
    assert call[:4] == ["--user", "--scope", "--quiet", "--collect"]
    assert "--property=Delegate=yes" in call
    assert "--description=vLLM worker tiny-1" in call
    assert "hf_secret" not in str(call)
    assert probe[-2:] == ["--", "/bin/true"]


def test_root_asks_the_manager_of_the_machine_where_systemd_runs_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    scopes = Scopes(machine.environ, system=tmp_path / "systemd", root=True)
    assert scopes.wrap(["/bin/true"], {}, "a-1")[0][1] == "--system"
    elsewhere = Scopes(machine.environ, system=tmp_path / "none", root=True)
    assert elsewhere.wrap(["/bin/true"], {}, "a-1") == (["/bin/true"], {})


def test_a_systemd_that_fails_is_asked_once_and_done_without(tmp_path: Path) -> None:
    machine = Machine(tmp_path, works=False)
    scopes = Scopes(machine.environ, root=False)
    for _ in range(3):
        assert scopes.wrap(["/bin/true"], {"A": "b"}, "a-1") == (["/bin/true"], {"A": "b"})
    assert len(machine.asked()) == 1


def test_a_systemd_that_hangs_is_given_up_within_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    given: list[float] = []

    def hang(argv: list[str], *, timeout: float, **_: object) -> None:
        given.append(timeout)
        raise subprocess.TimeoutExpired(argv, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    scopes = Scopes(machine.environ, root=False)
    assert scopes.wrap(["/bin/true"], {}, "a-1")[0] == ["/bin/true"]
    assert scopes.wrap(["/bin/true"], {}, "a-1")[0] == ["/bin/true"]
    assert len(given) == 1
    assert given[0] < 1.0


@pytest.mark.parametrize("missing", ["systemd-run", "systemd/private"])
def test_without_a_user_manager_nothing_is_asked(tmp_path: Path, missing: str) -> None:
    machine = Machine(tmp_path)
    (tmp_path / missing).unlink()
    assert Scopes(machine.environ, root=False).wrap(["/bin/true"], {}, "a-1")[0] == ["/bin/true"]
    assert not machine.log.exists()
