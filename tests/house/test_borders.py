"""The borders between rooms, seen from a fresh interpreter: what importing a verb really loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("textual", "rich", "sqlmodel", "sqlalchemy", "pydantic", "httpx", "vllm", "torch", "numpy")


def modules_after(code: str) -> set[str]:
    """Top-level names in sys.modules once `code` has run in an interpreter of its own."""
    script = f"{code}\nimport sys\nprint(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    return set(run.stdout.rsplit("\n", 2)[-2].split())


def test_status_json_loads_nothing_heavy() -> None:
    code = (
        "from vllm_console.cli.main import main\n"
        "assert main(['status', '--json', '--fleet', 'fleet.toml', '--state-dir', '/nonexistent'])"
        " == 3"
    )
    assert not modules_after(code) & set(HEAVY)


@pytest.mark.parametrize("module", ["vllm_console.cli.main", "vllm_console.control.client"])
def test_light_modules_stay_light(module: str) -> None:
    assert not modules_after(f"import {module}") & set(HEAVY)


def test_the_console_draws_without_the_rooms_behind_the_client() -> None:
    loaded = modules_after(
        "import vllm_console.ui.console, sys\n"
        "rooms = ('fleet.model', 'engines', 'workers', 'launchers', 'devices', 'telemetry', "
        "'history', 'traffic', 'control.daemon')\n"
        "seen = [m for m in sys.modules for r in rooms if m.startswith('vllm_console.' + r)]\n"
        "assert not seen, seen"
    )
    assert "textual" in loaded
    assert not loaded & {"pydantic", "httpx", "vllm", "torch", "numpy"}


@pytest.mark.parametrize(
    "module", ["cli.events", "cli.history", "history.database", "history.records", "control.daemon"]
)
def test_sqlmodel_waits_for_the_writer_thread(module: str) -> None:
    assert not modules_after(f"import vllm_console.{module}") & {"sqlmodel", "sqlalchemy"}


def test_events_without_a_daemon_load_nothing_heavy() -> None:
    code = (
        "from vllm_console.cli.main import main\n"
        "assert main(['events', '--fleet', 'fleet.toml', '--state-dir', '/nonexistent']) == 3"
    )
    assert not modules_after(code) & set(HEAVY)


@pytest.mark.parametrize("room", ["control.daemon", "control.main"])
def test_the_daemon_draws_nothing(room: str) -> None:
    assert not modules_after(f"import vllm_console.{room}") & {"textual", "rich", "vllm", "torch"}


def test_the_shim_needs_the_standard_library_alone() -> None:
    loaded = modules_after("import vllm_console.workers.shim")
    foreign = loaded - set(sys.stdlib_module_names) - {"vllm_console", "_virtualenv", ""}
    assert not {m for m in foreign if not m.startswith(("_", "sitecustomize", "usercustomize"))}


def test_the_gateways_process_loads_nothing_heavy() -> None:
    loaded = modules_after("import vllm_console.gateway.process")
    assert not loaded & {*HEAVY, "psutil"}
    assert {"uvicorn", "uvloop", "httptools", "msgspec"} <= loaded
