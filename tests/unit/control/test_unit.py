"""The systemd unit: its quoting against systemd's own rules, and what it must and must not say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.control.unit import command, program_of, unit, unit_name
from vllm_console.errors import InvalidInput
from vllm_console.fleet.find import Place
from vllm_console.fleet.model import Fleet, Gateway, ModelConfig
from vllm_console.fleet.secrets import Secret

PLACE = Place(Path("/etc/fleet.toml"), "lab", Path("/var/lib/lab"))
MODEL = ModelConfig(name="a", env={"HF_TOKEN": Secret(env="HF_TOKEN")}, drain_timeout_s=90.0)
FLEET = Fleet(name="lab", models={"a": MODEL})
ENVIRON = {"PATH": "/bin", "HF_TOKEN": "hf_secret", "HF_HOME": "/my models/100%"}


def made(user: str | None = "ada", place: Place = PLACE) -> str:
    return unit(place, FLEET, ["/opt/c"], user=user, environ=ENVIRON)


def parsed(line: str) -> list[str]:
    """A command line as systemd reads it: quotes, backslashes, then specifiers and variables."""
    words: list[str] = []
    at = 0
    while at < len(line):
        word = ""
        if line[at] == '"':
            at += 1
            while line[at] != '"':
                at += line[at] == "\\"
                word += line[at]
                at += 1
            at += 1
        else:
            while at < len(line) and line[at] != " ":
                assert line[at] not in "\\\"'"
                word += line[at]
                at += 1
        assert at == len(line) or line[at] == " "
        at += 1
        word = word.replace("%%", "%")
        words.append(word if not words else word.replace("$$", "$"))
    return words


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])), max_size=5))
def test_every_argument_comes_back_as_it_was(words: list[str]) -> None:
    assert parsed(command(["/opt/my $x 5%/c", *words])) == ["/opt/my $x 5%/c", *words]


def test_workers_outlive_a_daemon_that_dies_and_a_stop_takes_the_fleet_down() -> None:
    lines = made().splitlines()
    where = "--fleet /etc/fleet.toml --state-dir /var/lib/lab"
    assert f"ExecStart=/opt/c up {where}" in lines
    assert f"ExecStop=-/opt/c down --timeout 150 {where}" in lines
    for line in ("KillMode=process", "Delegate=yes", "Restart=on-failure", "TimeoutStopSec=180"):
        assert line in lines


def test_a_system_unit_runs_as_its_user_and_a_user_unit_does_not() -> None:
    assert "User=ada" in made()
    assert "WantedBy=multi-user.target" in made()
    assert "sudo systemctl enable --now vllm-console-lab.service" in made()
    mine = made(user=None)
    assert "User=" not in mine
    assert "network-online" not in mine
    assert "WantedBy=default.target" in mine
    assert "~/.config/systemd/user/vllm-console-lab.service" in mine


def test_secrets_of_the_gateways_keys_and_of_watched_servers_are_named_too() -> None:
    watched = ModelConfig(name="b", engine="attach", url="http://h:1", api_key=Secret(env="FAR"))
    gateway = Gateway(keys={"ann": Secret(env="ANN"), "bob": Secret(file="bob")})
    fleet = Fleet(name="lab", gateway=gateway, models={"a": MODEL, "b": watched})
    text = unit(PLACE, fleet, ["/opt/c"], user="ada", environ=ENVIRON)
    assert "# Secrets it needs (HF_TOKEN, FAR, ANN):" in text


def test_no_secret_is_in_it_but_where_to_put_one() -> None:
    assert "hf_secret" not in made()
    assert "(HF_TOKEN)" in made()
    assert "\n# EnvironmentFile=" in made()
    assert 'Environment="HF_HOME=/my models/100%%"' in made()


def test_a_path_that_would_break_out_of_its_line_is_refused() -> None:
    with pytest.raises(InvalidInput, match="control character"):
        made(place=Place(Path("/a\nExecStart=/bin/sh"), "lab", Path("/s")))


def test_a_units_name_is_one_systemd_takes() -> None:
    assert unit_name("lab a/ö") == "vllm-console-lab-a--.service"


def test_the_program_is_the_one_beside_python_or_the_module(tmp_path: Path) -> None:
    python = tmp_path / "python"
    assert program_of(str(python)) == [str(python), "-m", "vllm_console"]
    (tmp_path / "vllm-console").touch()
    assert program_of(str(python)) == [str(tmp_path / "vllm-console")]
