"""`validate` and `config` as a shell sees them: what is printed where, and the exit code."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from vllm_console.cli.config import _shell_lines
from vllm_console.cli.main import main

FILE = """\
[defaults]
engine = "ENGINE"
[defaults.options]
max_num_seqs = 8

[models.tiny]
source = "tiny:small"
aliases = ["t"]
drain_timeout = "5s"
[models.tiny.options]
hf_overrides = { a = "b c" }
[models.tiny.env]
HF_TOKEN = { file = "missing" }

[models."old.box"]
engine = "attach"
url = "http://10.0.0.7:8000"
"""
DUMP = Path(__file__).with_name("vllm_0_32_flags.json")


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet file in a directory of its own; no engine anywhere."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("VLLM_CONSOLE_ENGINES", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "fleet.toml"
    path.write_text(FILE.replace("ENGINE", "nowhere"), encoding="utf-8")
    return path


@pytest.fixture
def engine(fleet: Path) -> Path:
    """A fake engine whose Python answers the question for its flags with a real dump."""
    home = fleet.parent / "engine"
    (home / "bin").mkdir(parents=True)
    python = home / "bin" / "python"
    python.write_text(f"#!/bin/sh\nexec /bin/cat '{DUMP}'\n", encoding="utf-8")
    program = home / "bin" / "vllm"
    program.write_text(f"#!{python}\n", encoding="utf-8")
    for path in (python, program):
        path.chmod(0o755)
    fleet.write_text(FILE.replace("ENGINE", "engine/bin/vllm"), encoding="utf-8")
    return program


def test_a_good_file_is_ok_and_says_what_could_not_be_checked(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate"]) == 0
    out, err = capsys.readouterr()
    assert out == "fleet.toml: ok, 2 models\n"
    notes = err.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert "models.tiny.env.HF_TOKEN: cannot read" in notes[0]
    assert "engine options are not checked: " in notes[1]


def test_every_problem_is_a_line_on_stderr_and_the_code_is_2(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.write_text("[models.m]\nsorce = 's'\ngpus = 'x'\n", encoding="utf-8")
    assert main(["validate", "--fleet", str(fleet)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        *("models.m.sorce", "models.m.gpus")
    ]


def test_engine_options_are_checked_against_that_very_engine(
    fleet: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate"]) == 0
    assert "reading the options of vLLM" in capsys.readouterr().err
    assert main(["validate", "--set", "defaults.options.max_num_sequences=4"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        "--set: models.tiny.options.max_num_sequences: vLLM 0.32.0+cpu has no such option; "
        'did you mean "max_num_seqs"?'
    )
    fleet.write_text(fleet.read_text(encoding="utf-8").replace("= 8", '= "many"'), encoding="utf-8")
    assert main(["validate"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fleet.toml:4: models.tiny.options.max_num_seqs: must be a whole number")
    assert "reading the options" not in err


def test_a_size_that_tiny_models_do_not_have_is_a_problem(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "--set", "models.tiny.source=tiny:smal"]) == 2
    assert 'did you mean "tiny:small"?' in capsys.readouterr().err


def test_what_a_model_s_own_files_rule_out_is_a_problem_with_its_line(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = fleet.parent / "weights"
    home.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
    (home / "config.json").write_text(json.dumps(config), encoding="utf-8")
    fleet.write_text(
        '[defaults.options]\nmax_model_len = 8192\n[models.m]\nsource = "./weights"\n',
        encoding="utf-8",
    )
    assert main(["validate"]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note")]
    assert told == [
        "fleet.toml:4: models.m.source: the directory holds a config.json and no weight files"
        " (*.safetensors, *.bin): fetch the model again",
        "fleet.toml:2: models.m.options.max_model_len: max_model_len 8192 exceeds the model's 4096:"
        " set max_model_len to 4096 or less",
    ]
    assert main(["validate", "--set", "models.m.source=./waits"]) == 2
    assert f"--set: models.m.source: no directory {fleet.parent / 'waits'}" in (
        capsys.readouterr().err
    )


def test_validate_as_json_is_one_object(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.write_text("[models.m]\nsource = 5\n", encoding="utf-8")
    assert main(["validate", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["models"], told["fleet"]) == (False, None, str(fleet))
    assert told["problems"] == [
        {
            "place": "fleet.toml",
            "line": 2,
            "key": "models.m.source",
            "text": "must be a text, not 5",
        }
    ]


def test_config_prints_toml_and_the_command_line(
    fleet: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "t"]) == 0
    text, command = capsys.readouterr().out.split("\n\n")
    assert tomllib.loads(text)["models"]["tiny"] == {
        "source": "tiny:small",
        "aliases": ["t"],
        "engine": str(engine),
        "drain_timeout": "5s",
        "options": {"max_num_seqs": 8, "hf_overrides": {"a": "b c"}},
        "env": {"HF_TOKEN": {"file": "missing"}},
    }
    assert "--port PORT" in command
    assert "--served-model-name tiny t" in command
    assert """--hf-overrides '{"a":"b c"}'""" in command


def test_config_with_origins_shows_the_place_of_each_value(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "tiny", "--origins", "--set", "models.tiny.pinned=true"]) == 0
    places = {
        line.split(" = ")[0]: line.rsplit("  # ", 1)[1]
        for line in capsys.readouterr().out.splitlines()
        if "  # " in line
    }
    assert places["source"] == "fleet.toml:7"
    assert places["max_num_seqs"] == "fleet.toml:4"
    assert places["pinned"] == "--set"
    assert places["start_timeout"] == "built-in"


def test_config_of_all_models_as_json_shows_references_to_secrets(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    tiny, box = told["models"]
    assert tiny["values"]["env.HF_TOKEN"]["value"] == {"file": "missing"}
    assert tiny["command"][:3] == ["vllm", "serve", "tiny:small"]
    assert (box["name"], box["command"]) == ("old.box", None)
    assert main(["config", "old.box"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["models"]["old.box"]["engine"] == "attach"


def test_config_of_a_model_that_is_not_there_names_the_nearest(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "tinny"]) == 4
    assert 'did you mean "tiny"?' in capsys.readouterr().err


def test_verbs_without_a_fleet_file_say_where_they_looked(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.unlink()
    for verb in ("validate", "config"):
        assert main([verb, "--fleet", "other.toml"]) == 2
        assert capsys.readouterr().err.startswith("vllm-console: other.toml: no such file")


def test_bucket_bounds_are_folded_and_still_the_same_command() -> None:
    bounds = json.dumps({"time_to_first_token": [n / 7 for n in range(1, 80)]})
    command = ("vllm", "serve", "m", "--port", "1", "--custom-histogram-buckets", bounds)
    lines = "\n".join(_shell_lines(command))
    assert max(map(len, lines.splitlines())) < 100
    words = shlex.split(lines.replace("\\\n", ""))
    assert tuple(words[:-1]) == command[:-1]
    assert json.loads(words[-1]) == json.loads(bounds)
