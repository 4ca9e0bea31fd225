"""`doctor`, `discover` and `systemd` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_console.cli.discover import attach_lines, whose_words
from vllm_console.cli.doctor import lines
from vllm_console.cli.main import main
from vllm_console.control.doctor import Check
from vllm_console.fleet.load import load_fleet
from vllm_console.workers import discovery
from vllm_console.workers.discovery import Server

FLEET = '[fleet]\nname = "t"\n[models.a]\nsource = "tiny:small"\nengine = "mine"\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory as the place to stand in, with no fleet and no engine anywhere."""
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "VLLM_CONSOLE_ENGINES", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


def test_doctor_works_without_a_fleet_and_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor"])
    out = capsys.readouterr().out
    assert "no fleet file here" in out.splitlines()[0]
    assert "python" in out


def test_doctor_exits_1_for_a_missing_engine_and_tells_the_remedy(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "fleet.toml").write_text(FLEET)
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "vllm-console/doctor/1"
    assert report["ok"] is False
    [engine] = [check for check in report["checks"] if check["name"] == "engine"]
    assert engine["level"] == "bad"
    assert "engines install" in engine["remedy"]


def test_doctor_of_a_broken_fleet_file_is_a_finding(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, says in (("[fleet\n", "not TOML"), (FLEET + "gpu = 1\n", "validate")):
        (here / "fleet.toml").write_text(text)
        assert main(["doctor"]) == 1
        first = capsys.readouterr().out.splitlines()[0]
        assert first.startswith("✖ fleet")
        assert says in first


@pytest.mark.parametrize("verb", ["doctor", "discover", "systemd"])
def test_a_fleet_file_that_is_not_there_is_wrong_usage(
    here: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main([verb, "--fleet", "nowhere.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_finding_is_one_line_with_its_remedy() -> None:
    found = [Check("a", "ok", "well"), Check("bcd", "bad", "broken", "mend it")]
    assert lines(found) == ["✔ a    well", "✖ bcd  broken → mend it"]


def test_discover_without_a_server_says_so(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "listeners_by_port", dict)
    assert main(["discover"]) == 0
    assert capsys.readouterr().out == "no vLLM server answers on 127.0.0.1\n"
    assert main(["discover", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {"schema": "vllm-console/discover/1", "servers": []}


def test_the_lines_to_paste_make_a_fleet(tmp_path: Path) -> None:
    servers = [
        Server(8000, ("Qwen/Qwen3-0.6B",), "0.32.0"),
        Server(8001, ("Qwen/Qwen3-0.6B",), "0.32.0"),
        Server(8002, None, "0.32.0"),
        Server(8003, ('we"ird]\n', "x"), None),
    ]
    file = tmp_path / "fleet.toml"
    file.write_text("\n".join(attach_lines(servers, {"vllm"})))
    models = load_fleet(file, environ={}).models
    assert {name: model.url for name, model in models.items()} == {
        "qwen3-0-6b": "http://127.0.0.1:8000",
        "qwen3-0-6b-8001": "http://127.0.0.1:8001",
        "vllm-8002": "http://127.0.0.1:8002",
        "we-ird": "http://127.0.0.1:8003",
    }


def test_whose_a_server_is_in_words(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "lab" / "workers", tmp_path / "other" / "workers"
    mine = Server(1, (), None, 5, ours / "a-1")
    assert whose_words(mine, ours, {}) == "this fleet: a-1"
    assert whose_words(mine, theirs, {}) == f"another fleet: a-1 in {tmp_path / 'lab'}"
    assert whose_words(Server(1, (), None), ours, {}) == "foreign"
    assert whose_words(Server(1, (), None), ours, {1: "old"}) == "attached: old"


def test_systemd_prints_a_unit_and_takes_one_scope(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "fleet.toml").write_text(FLEET)
    assert main(["systemd", "--user"]) == 0
    assert "WantedBy=default.target" in capsys.readouterr().out
    assert main(["systemd", "--system"]) == 0
    assert "WantedBy=multi-user.target" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["systemd", "--user", "--system"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
