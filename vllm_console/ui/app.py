"""The console's front door: reads first, then loads Textual, then draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vllm_console.ui.source import FleetClient, Reader


def run_console(
    connect: Callable[[], FleetClient],
    *,
    panels: Path | None = None,
    theme: str | None = None,
    readonly: bool = False,
    refresh_s: float = 1.0,
) -> int:
    """Draw the fleet until the user quits; the value is the exit code.

    Raises `InvalidInput` for a panels folder or a theme that does not exist. A daemon that goes
    away is waited for. `refresh_s` is the least number of seconds between two paints.
    """
    reader = Reader(connect)
    # The daemon's first answer travels while Textual is imported.
    reader.start()
    try:
        from vllm_console.ui.console import Console, checked_theme
        from vllm_console.ui.panels import load_panels

        console = Console(
            connect,
            reader=reader,
            panels=load_panels(panels),
            theme_name=checked_theme(theme),
            readonly=readonly,
            refresh_s=refresh_s,
        )
        console.run()
        return console.return_code or 0
    finally:
        reader.close()
