"""From a bare clone to the first token: seconds of `make demo`, cold and warm; installed sizes.

    python benchmarks/first_token.py [--seconds 20] [--warm-only]

Cold clones this repository into a temporary directory and gives the clone empty data, cache and
state directories: tools, packages, the engine environment and the models are all fetched or made.
Warm runs the same clone again. With --warm-only the demo runs from this checkout as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from common import CLI, ROOT, disk_bytes, table

TIMEOUT_S = 1800.0


def demo(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds from the command to the first token served, and to its end."""
    began, start = time.time(), time.monotonic()
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    took = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    summary = json.loads(done.stdout[done.stdout.index("{") :])
    return summary["first_token_at"] - began, took


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--seconds", type=float, default=20.0, help="of traffic a run")
    options.add_argument("--warm-only", action="store_true", help="this checkout, nothing fetched")
    args = options.parse_args()
    headless = f"--headless --json --for {args.seconds:g}"
    rows: list[list[object]] = []
    if args.warm_only:
        words = [str(CLI), "demo", *headless.split()]
        rows.extend(["warm", *demo(words, ROOT, dict(os.environ))] for _ in range(3))
        table(rows, ["run", "first token s", "whole run s"])
        return
    home = Path(tempfile.mkdtemp(prefix="vllm-console-first-token-"))
    try:
        clone = home / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=60)
        environment = {
            **os.environ,
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_STATE_HOME": str(home / "state"),
            "UV_CACHE_DIR": str(home / "uv-cache"),
        }
        for variable in ("VIRTUAL_ENV", "VLLM_CONSOLE_ENGINES", "UV_PROJECT_ENVIRONMENT"):
            environment.pop(variable, None)  # the clone decides
        words = ["make", "-s", "demo", f"ARGS={headless}"]
        rows.append(["cold", *demo(words, clone, environment)])
        rows.append(["warm", *demo(words, clone, environment)])
        table(rows, ["run", "first token s", "whole run s"])
        sizes = (
            ("uv, in the clone", disk_bytes(clone / ".uv")),
            ("the console's environment", disk_bytes(clone / ".venv")),
            ("engine environments and models", disk_bytes(clone / ".engines")),
            ("package cache (can go)", disk_bytes(home / "uv-cache")),
        )
        print()
        table([[name, size / 1e6] for name, size in sizes], ["on disk", "MB"])
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
