"""The options of an environment's vLLM: asked once, cached, never half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.engines.fakes import DUMP, managed, script, venv
from vllm_console.engines import flags
from vllm_console.engines.environment import EngineEnvironment, resolve
from vllm_console.engines.flags import cached_schema, flag_schema, forget_schema
from vllm_console.errors import ConsoleError, TimedOut


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")}


def engine(home: Path, says: str) -> EngineEnvironment:
    """An environment whose Python answers a script with the shell text `says`."""
    script(home / "bin" / "python", f"#!/bin/sh\necho asked >> {home}/asked\n{says}\n")
    return resolve(str(home))


def prints(dump: object) -> str:
    return f"cat <<'END'\n{json.dumps(dump)}\nEND"


def asked(home: Path) -> int:
    return len((home / "asked").read_text().splitlines())


def test_options_are_asked_once_and_kept_beside_a_managed_environment(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    home = managed(tmp_path / "engines", "cpu")
    env = engine(home, prints(DUMP))
    assert cached_schema(env, environ=environ) is None
    assert "max_num_seqs" in flag_schema(env, environ=environ).flags
    assert "max_num_seqs" in flag_schema(env, environ=environ).flags
    assert asked(home) == 1
    assert [path.name for path in (tmp_path / "engines/.flags").iterdir()] == ["cpu-0.32.0.json"]


def test_a_foreign_environments_options_are_kept_in_the_users_cache(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    env = engine(venv(tmp_path / "own"), prints(DUMP))
    flag_schema(env, environ=environ)
    assert cached_schema(env, environ=environ) is not None
    (kept,) = (tmp_path / "cache/vllm-console/flags").iterdir()
    assert kept.name.endswith("-0.32.0.json")
    assert kept.stat().st_mode & 0o777 == 0o644


def test_another_version_in_the_same_place_is_asked_again(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    env = engine(venv(tmp_path / "own"), prints(DUMP))
    flag_schema(env, environ=environ)
    assert cached_schema(replace(env, version="0.33.0"), environ=environ) is None
    assert cached_schema(replace(env, version=None), environ=environ) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"flags": []}', b'{"flags": [7]}', b"\xff"])
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, environ: dict[str, str], damage: bytes
) -> None:
    home = managed(tmp_path / "engines", "cpu")
    env = engine(home, prints(DUMP))
    flag_schema(env, environ=environ)
    (kept,) = (tmp_path / "engines/.flags").iterdir()
    kept.write_bytes(damage)
    assert cached_schema(env, environ=environ) is None
    assert flag_schema(env, environ=environ).flags
    assert asked(home) == 2
    assert json.loads(kept.read_bytes()) == DUMP


def test_where_the_engines_directory_takes_no_file_the_users_cache_does(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    env = engine(managed(tmp_path / "engines", "cpu"), prints(DUMP))
    (tmp_path / "engines/.flags").touch()
    flag_schema(env, environ=environ)
    assert len(list((tmp_path / "cache/vllm-console/flags").iterdir())) == 1
    forget_schema(env, environ=environ)
    assert cached_schema(env, environ=environ) is None


def test_options_are_told_even_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    environ = {"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env = engine(venv(tmp_path / "own"), prints(DUMP))
    assert flag_schema(env, environ=environ).flags


@pytest.mark.parametrize(
    ("says", "line"),
    [
        ("echo Traceback >&2; echo 'RuntimeError: no device' >&2; exit 1", "RuntimeError: no devi"),
        ("echo '{\"flags\": []}'", "it said nothing"),
        ("echo hello", "it said nothing"),
    ],
)
def test_an_engine_that_cannot_tell_is_one_line(
    tmp_path: Path, environ: dict[str, str], says: str, line: str
) -> None:
    env = engine(venv(tmp_path / "own"), says)
    with pytest.raises(ConsoleError) as caught:
        flag_schema(env, environ=environ)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_an_engine_that_hangs_times_out(tmp_path: Path, environ: dict[str, str]) -> None:
    env = engine(venv(tmp_path / "own"), "exec sleep 60")
    with pytest.raises(TimedOut, match=r"in 0\.2 s"):
        flag_schema(env, timeout_s=0.2, environ=environ)


def test_a_python_that_is_gone_is_one_line(tmp_path: Path, environ: dict[str, str]) -> None:
    env = engine(venv(tmp_path / "own"), "")
    env.python.unlink()
    with pytest.raises(ConsoleError, match=r"cannot run .*: No such file"):
        flag_schema(env, environ=environ)


@pytest.mark.parametrize(("driver", "target"), [(False, "cpu"), (True, "")])
def test_a_cuda_build_is_asked_as_a_cpu_build_where_there_is_no_driver(
    tmp_path: Path,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    driver: bool,
    target: str,
) -> None:
    monkeypatch.setattr(flags, "has_nvidia_driver", lambda: driver)
    home = venv(tmp_path / "own")
    env = engine(home, f'echo "$VLLM_TARGET_DEVICE" > {home}/target; {prints(DUMP)}')
    flag_schema(env, environ=environ)
    assert (home / "target").read_text().strip() == target


SERVE_MODULE = """
print("INFO: noise on stdout while importing")
class ServeSubcommand:
    def subparser_init(self, subparsers):
        parser = subparsers.add_parser("serve")
        parser.add_argument("model_tag", nargs="?", help="The  model")
        group = parser.add_argument_group("SchedulerConfig")
        group.add_argument("--max-num-seqs", "-mns", type=int, default=128, help="Most\\n  at once")
        group.add_argument("--dtype", choices=["auto", "half"], default=object())
        return parser
"""


def test_the_dump_script_lists_what_the_parser_of_vllm_serve_takes(tmp_path: Path) -> None:
    for package in ("vllm", "vllm/utils", "vllm/entrypoints", "vllm/entrypoints/cli"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    parser = "from argparse import ArgumentParser as FlexibleArgumentParser\n"
    (tmp_path / "vllm/utils/argparse_utils.py").write_text(parser)
    (tmp_path / "vllm/entrypoints/cli/serve.py").write_text(SERVE_MODULE)
    (tmp_path / "vllm-0.99.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.99.0\n"
    (tmp_path / "vllm-0.99.0.dist-info/METADATA").write_text(metadata)
    done = subprocess.run(
        [sys.executable, str(flags.DUMP)],
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    dump = json.loads(done.stdout)
    assert dump["dists"]["vllm"] == "0.99.0"
    assert b"noise" in done.stderr
    tag, seqs, dtype = dump["flags"]
    assert (tag["flags"], tag["help"]) == ([], "The model")
    assert seqs == {
        "group": "SchedulerConfig",
        "flags": ["--max-num-seqs", "-mns"],
        "dest": "max_num_seqs",
        "kind": "_StoreAction",
        "type": "int",
        "choices": None,
        "nargs": None,
        "default": 128,
        "required": False,
        "help": "Most at once",
    }
    assert dtype["choices"] == ["auto", "half"]
    assert dtype["default"].startswith("<object object")
