"""Files a launcher reads back: of any version, with anything in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_console.launchers.files import clear, expected_s, learn, read_spec, write_spec
from vllm_console.launchers.local import LocalHandle, LocalLauncher
from vllm_console.workers import adoption
from vllm_console.workers.launch import LaunchSpec, iso
from vllm_console.workers.shim import boot_id

SPEC = LaunchSpec("a-b-2", "a-b", 3, ("vllm", "serve"), 8000, ("a-b",), gpus=(1, 0), cwd="/x")
NOBODY = 1 << 22
"""No process has a number above the kernel's limit."""


def test_a_spec_comes_back_as_it_was_written(tmp_path: Path) -> None:
    directory = tmp_path / "a-b-2"
    directory.mkdir()
    write_spec(directory, SPEC, 7)
    assert read_spec(directory, NOBODY) == SPEC


def test_a_spec_of_a_newer_version_keeps_what_is_known(tmp_path: Path) -> None:
    directory = tmp_path / "a-b-2"
    directory.mkdir()
    write_spec(directory, SPEC, 7)
    content = json.loads((directory / "spec.json").read_text())
    del content["stop_grace_s"]
    (directory / "spec.json").write_text(json.dumps({**content, "node": {"name": "n"}, "cwd": 5}))
    seen = read_spec(directory, NOBODY)
    assert (seen.model, seen.port, seen.gpus, seen.stop_grace_s) == ("a-b", 8000, (1, 0), 40.0)
    assert seen.cwd == "/"


def test_without_a_spec_the_name_and_the_command_line_tell(tmp_path: Path) -> None:
    directory = tmp_path / "a-b-2"
    directory.mkdir()
    assert read_spec(directory, NOBODY) == LaunchSpec("a-b-2", "a-b", 0, (), 0, ())
    argv = ["vllm", "serve", "m", "--port=8001", "--served-model-name", "a-b", "c", "--x"]
    (directory / "spec.json").write_text(json.dumps({"argv": argv}))
    seen = read_spec(directory, NOBODY)
    assert (seen.port, seen.served_names) == (8001, ("a-b", "c"))
    assert read_spec(directory, os.getpid()).argv == tuple(argv)


def test_a_spec_of_another_worker_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "c-1").mkdir()
    write_spec(tmp_path / "c-1", SPEC, 1)
    assert read_spec(tmp_path / "c-1", NOBODY).model == "c"


def test_what_is_in_the_way_is_put_aside_only_when_it_may_hold_something(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kept").touch()
    (tmp_path / "b").touch()
    for name in ("a", "b", "c"):
        clear(tmp_path / name)
    (aside,) = tmp_path.iterdir()
    assert (aside / "kept").exists()


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a-1", "a", 1 << 70, -1, os.getpid(), boot_id(), [["x"]]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
KEYS = (
    *("pid", "start", "boot", "generation", "at", "log_start", "asked", "cgroup", "rc", "clean_s"),
    *("worker_id", "model", "revision", "argv", "port", "served_names", "gpus", "took_s", "engine"),
    *("stop_grace_s", "start_timeout_s", "told", "a", "1"),
)
contents = st.dictionaries(st.sampled_from(KEYS), anything, max_size=len(KEYS)) | anything
NAMES = ("state.json", "exit.json", "served.json", "spec.json", "shim.lock")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), contents), contents)
def test_nothing_in_any_file_breaks_the_next_daemon(files: dict[str, Any], times: Any) -> None:
    with TemporaryDirectory() as root:
        directory = Path(root) / "a-1"
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_text(json.dumps(content))
        path = Path(root) / "start-times.json"
        path.write_text(json.dumps(times))
        seen = adoption.inspect(directory)
        spec = read_spec(directory, NOBODY)
        assert (spec.worker_id, type(spec.model), type(spec.port)) == ("a-1", str, int)
        record = seen.record or adoption.Record(NOBODY, 1, boot_id(), 1, 0.0, 0)
        assert iso(record.at)
        handle = LocalHandle(directory, spec, record, None)
        took_s = handle.served.took_s if handle.served else None
        assert took_s is None or took_s >= 0.0
        assert handle.tree() == []
        assert len(LocalLauncher(Path(root)).losses()) <= 1
        assert LocalLauncher(Path(root)).losses() == []
        learn(path, "a", 1, 2.0)
        assert expected_s(path, "a", 1) is not None
