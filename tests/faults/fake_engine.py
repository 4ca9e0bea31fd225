"""Makes an engine environment whose `vllm` is the fake one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

FAKE = Path(__file__).with_name("fake_vllm.py")
FLAGS = {
    "fake_boot_s": "float",
    "fake_failure": "str",
    "fake_chatter": "int",
    "fake_flood_mb": "int",
    "fake_flood_mb_s": "int",
    "fake_step_s": "float",
    "fake_metrics": "str",
    "fake_trouble": "str",
    "fake_gpu_memory": "str",
    "fake_gentle": None,
    "enable_sleep_mode": None,
}
"""Options of the fake engine and their types; `None` is a switch."""


def make_fake_engine(directory: Path) -> Path:
    """An engine environment at `directory`, which must not exist: its Python lists the flags."""
    programs = directory / "bin"
    programs.mkdir(parents=True)
    described = {"group": "fake", "choices": None, "nargs": None, "default": None, "help": ""}
    flags = [
        {
            **described,
            "flags": [f"--{name.replace('_', '-')}"],
            "dest": name,
            "kind": "_StoreAction" if kind else "_StoreTrueAction",
            "type": kind,
            "required": False,
        }
        for name, kind in FLAGS.items()
    ]
    listed = directory / "flags.json"
    listed.write_text(json.dumps({"dists": {"vllm": "0.32.0"}, "flags": flags}))
    for name, line in (
        ("vllm", f'exec "{sys.executable}" -I -S "{FAKE}" "$@"'),
        ("python", f'exec cat "{listed}"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    return directory
