"""Fake engine environments and a fake uv, for tests that must not wait for real packages."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

FAKE_UV = Path(__file__).with_name("fake_uv.py")

DUMP: dict[str, Any] = {
    "dists": {"vllm": "0.32.0"},
    "seconds": 7.9,
    "flags": [
        {
            "group": "SchedulerConfig",
            "flags": ["--max-num-seqs"],
            "dest": "max_num_seqs",
            "kind": "_StoreAction",
            "type": "int",
            "choices": None,
            "nargs": None,
            "default": None,
            "required": False,
            "help": "Most sequences in one step.",
        }
    ],
}


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def venv(home: Path, *records: str, shebang: str | None = None) -> Path:
    """A virtual environment with a `vllm` program and package records such as "vllm-0.9.2"."""
    python = script(home / "bin" / "python", "#!/bin/sh\n")
    script(home / "bin" / "vllm", f"{shebang or f'#!{python}'}\n")
    for record in records or ("vllm-0.32.0",):
        (home / f"lib/python3.11/site-packages/{record}.dist-info").mkdir(parents=True)
    return home


def managed(folder: Path, name: str, *records: str, device: str = "cuda") -> Path:
    """A complete managed environment."""
    home = venv(folder / name, *records)
    about = {"name": name, "spec": f"vllm=={name}", "device": device}
    (home / "engine.json").write_text(json.dumps(about))
    return home


class FakeUv:
    """A uv that makes environments with nothing in them, or fails, or hangs, as `mode` says."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        words = (sys.executable, "-I", str(FAKE_UV), str(home))
        self.program = script(home / "uv", f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        self.environ = {
            "PATH": os.defpath,
            "HOME": str(home),
            "PIP_CONFIG_FILE": os.devnull,
            "VLLM_CONSOLE_UV": str(self.program),
        }

    def will(self, mode: str) -> None:
        """What the next runs do: see fake_uv.py."""
        (self.home / "mode").write_text(mode)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Every call so far: arguments, what it saw of the environment, its process id."""
        try:
            return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def argv(self, verb: str) -> list[str]:
        """The arguments of the last call of `venv` or `pip`."""
        found: list[list[str]] = [call["argv"] for call in self.calls if call["argv"][0] == verb]
        return found[-1]
