"""The demo as a stranger runs it: real workers, real traffic, an honest exit code, nothing left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vllm_console.engines.environment import EngineEnvironment

pytestmark = pytest.mark.engine


def test_a_headless_demo_serves_tokens_and_takes_everything_away_again(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-m", "vllm_console", "demo", "--headless", "--for", "6", "--json"]
    done = subprocess.run(
        [*command, "--state-dir", str(state)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert {model["model"] for model in summary["models"]} == {"tiny-chat", "tiny-writer"}
    assert all(model["output_tokens"] > 0 for model in summary["models"])
    left = [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "cmdline"])
        if str(state) in " ".join(process.info["cmdline"] or ())
    ]
    assert not left
