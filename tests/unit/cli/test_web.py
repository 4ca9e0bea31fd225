"""`vllm-console web`: what a page starts, and what is said before anything is served."""

from __future__ import annotations

import shlex
import socket
import sys
from pathlib import Path

import pytest

from vllm_console.cli import web
from vllm_console.cli.main import build_parser, main


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text('[fleet]\nname = "lab"\n')
    return path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What would be served: command, host, port."""
    calls: list[tuple[str, str, int]] = []
    monkeypatch.setattr("vllm_console.ui.browser.serve", lambda *args: calls.append(args))
    return calls


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_page_is_a_read_only_console_of_this_fleet(
    fleet: Path, served: list[tuple[str, str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    line = ["web", "--fleet", str(fleet), "--port", str(port), "--theme", "nord"]
    assert main([*line, "--set", "fleet.name=a b"]) == 0
    ((command, host, at),) = served
    words = shlex.split(command)
    assert words[:4] == [sys.executable, "-m", "vllm_console", "console"]
    assert "--readonly" in words
    assert words[words.index("--fleet") + 1] == str(fleet)
    assert words[words.index("--set") + 1] == "fleet.name=a b"
    assert (host, at) == ("127.0.0.1", port)
    said = capsys.readouterr()
    assert said.out.startswith(f"http://127.0.0.1:{port} ")
    assert said.err == ""


def test_the_line_that_a_page_starts_is_one_the_console_takes(fleet: Path) -> None:
    args = build_parser("web").parse_args(["web", "--fleet", str(fleet), "--theme", "nord"])
    args.set = ["models.a.options.max_num_seqs=4"]
    parsed = build_parser("console").parse_args(web.console_command(args)[3:])
    assert (parsed.verb, parsed.readonly, parsed.theme) == ("console", True, "nord")
    assert parsed.sets_after_verb == args.set


def test_commands_are_allowed_when_told_so_and_other_machines_are_warned_of(
    fleet: Path, served: list[tuple[str, str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["web", "--fleet", str(fleet), "--host", "0.0.0.0", "--port", str(free_port())]
    assert main([*line, "--allow-commands"]) == 0
    assert "--readonly" not in served[0][0]
    assert "no password: whoever reaches port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_loopback_is_told_from_the_rest(host: str, alone: bool) -> None:
    assert web.is_loopback(host) is alone


def test_a_port_in_use_and_a_port_that_is_none_are_one_line(
    fleet: Path, served: list[tuple[str, str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["web", "--fleet", str(fleet), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in (
        capsys.readouterr().err
    )
    assert main(["web", "--fleet", str(fleet), "--port", "70000"]) == 2
    assert "takes 1 to 65535" in capsys.readouterr().err
    assert served == []


def test_without_textual_serve_it_says_how_to_get_it(
    fleet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "vllm_console.ui.browser", raising=False)
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    assert main(["web", "--fleet", str(fleet)]) == 1
    assert "pip install 'vllm-console[web]'" in capsys.readouterr().err
