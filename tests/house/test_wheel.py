"""A wheel built from the tree installs with pip in a fresh environment, and works there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment that has nothing but the wheel."""
    tmp = tmp_path_factory.mktemp("wheel")
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    subprocess.run(
        [uv, "build", "--wheel", "--quiet", "--out-dir", str(tmp), str(ROOT)],
        check=True,
        timeout=300,
    )
    (wheel,) = tmp.glob("*.whl")
    venv.create(tmp / "env", with_pip=True)
    pip = [str(tmp / "env" / "bin" / "python"), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(pip, check=True, timeout=600, stderr=subprocess.DEVNULL)
    return tmp / "env" / "bin"


def run(bin_dir: Path, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in an empty directory, with an empty home."""
    env = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}
    return subprocess.run(
        [str(bin_dir / "vllm-console"), *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_is_there_and_says_its_version(installed: Path, tmp_path: Path) -> None:
    answer = run(installed, tmp_path, "--version")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("vllm-console ")


def test_the_example_fleet_and_the_panels_are_inside(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.resources as r, json\n"
        "data = r.files('vllm_console') / '_data'\n"
        "print(json.dumps([str(data / 'fleet.toml'), sorted(p.name for p in (data / 'panels')"
        ".iterdir())]))"
    )
    out = subprocess.run(
        [str(installed / "python"), "-c", code],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    fleet, panels = json.loads(out.stdout)
    assert panels == ["batching.toml", "engines.toml", "performance.toml", "scaling.toml"]
    answer = run(installed, tmp_path, "config", "--fleet", fleet)
    assert answer.returncode == 0, answer.stderr
    assert "tiny" in answer.stdout


def test_without_a_fleet_file_it_says_what_to_do(installed: Path, tmp_path: Path) -> None:
    answer = run(installed, tmp_path, "status")
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "no fleet file" in answer.stderr
