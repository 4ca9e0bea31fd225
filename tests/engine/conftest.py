"""The real engine environment and a tiny model: installed for real where they are missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vllm_console.engines.environment import EngineEnvironment
from vllm_console.engines.install import Progress, install
from vllm_console.engines.tiny import tiny_model


@pytest.fixture(scope="session")
def engine_environment() -> EngineEnvironment:
    """The environment "cpu" of the default engines directory; not being able to make it fails."""
    said = set()

    def say(progress: Progress) -> None:
        if progress.stage not in said:
            said.add(progress.stage)
            sys.stderr.write(f"engine environment cpu: {progress.stage} {progress.detail}\n")

    return install("cpu", on_progress=say)


@pytest.fixture(scope="session")
def tiny_small(engine_environment: EngineEnvironment) -> Path:
    """The directory of the small tiny model."""
    return tiny_model("small", engine_environment)
