"""The screens: the dashboard, what it opens, help, and the question before what destroys."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from textual.screen import Screen

STYLES = sorted(Path(__file__).parent.glob("*.tcss"))
_LATER = ("help", "worker", "events", "history", "plan", "fleet_file", "definitions")


def import_all() -> None:
    """Import the screens that a key may open, which the first frame does not wait for."""
    for name in _LATER:
        import_module(f"{__name__}.{name}")


def opened(what: str, key: str | None) -> Screen[Any] | None:
    """The screen of that name about a row of the model list; `None` where it needs one.

    Its module is imported when it is first opened: the first frame does not wait for it.
    """
    if what == "events":
        from vllm_console.ui.screens.events import Events

        return Events()
    if what in ("file", "edit", "apply"):
        from vllm_console.ui.screens.fleet_file import FleetFilePage

        return FleetFilePage(edit=what == "edit", apply=what == "apply")
    if what == "history":
        from vllm_console.ui.screens.history import HistoryPage

        return HistoryPage(key)
    if key is None:
        return None
    if what == "plan":
        from vllm_console.ui.screens.plan import PlanPage

        return PlanPage(key)
    from vllm_console.ui.screens.worker import WorkerDetail

    return WorkerDetail(key, tab="log" if what == "log" else "overview")
