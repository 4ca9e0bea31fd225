"""The console's front door: reads first, then loads Textual, then draws."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

from vllm_console.ui.source import FleetClient, Reader

THEME = "VLLM_CONSOLE_THEME"
"""The environment's name for the theme to begin with, where no option gives one."""


def run_console(
    connect: Callable[[], FleetClient],
    *,
    panels: Path | None = None,
    theme: str | None = None,
    readonly: bool = False,
    refresh_s: float = 1.0,
    ascii_only: bool | None = None,
    recorded: str | None = None,
    begin: str | None = None,
) -> int:
    """Draw the fleet until the user quits; the value is the exit code.

    Raises `InvalidInput` for a panels folder or a theme that does not exist. A daemon that goes
    away is waited for. `refresh_s` is the least number of seconds between two paints.
    `ascii_only` draws without any other character; `None` leaves that to what the terminal is.
    `recorded` is the name of the file that `connect` answers from, where it is no daemon, and
    `begin` the time to show first.
    """
    _return_large_blocks()
    reader = Reader(connect)
    # The daemon's first answer travels while Textual is imported.
    reader.start()
    try:
        from vllm_console.ui.console import Console
        from vllm_console.ui.panel_files import PanelFiles
        from vllm_console.ui.panels import load_panels
        from vllm_console.ui.plain import few_characters
        from vllm_console.ui.theme import usual

        console = Console(
            connect,
            reader=reader,
            panels=load_panels(panels),
            panel_files=PanelFiles(panels),
            theme_name=theme or os.environ.get(THEME) or usual(os.environ),
            readonly=readonly,
            refresh_s=refresh_s,
            ascii_only=few_characters(os.environ) if ascii_only is None else ascii_only,
            recorded=recorded,
            begin=begin,
        )
        console.run()
        return console.return_code or 0
    finally:
        reader.close()


_M_MMAP_THRESHOLD = -3
"""<malloc.h> of glibc."""
_LARGE = 128 * 1024
"""glibc's own threshold to begin with; it raises it to the largest block that was ever freed."""


def _return_large_blocks() -> None:
    """Have the C library give every large block back to the system when it is freed.

    A snapshot of 256 models comes as 2 MB of text each second: kept for the next, and copied while
    it is read, that is 5 MB of memory that nothing is in.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE)
