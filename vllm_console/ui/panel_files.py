"""Watches the panel files and reads them anew when one of them has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from threading import Thread

from vllm_console.errors import ConsoleError
from vllm_console.ui.panels import PanelSpec, load_panels, panel_files

EVERY_S = 1.0

Stamp = tuple[tuple[str, int, int], ...]
"""Each file with its time of change and its size."""
Told = Callable[[tuple[PanelSpec, ...] | str], None]
"""Hears, in the watcher's thread, of the new panels, or in one line why there are none."""


def stamp(folder: Path | None) -> Stamp | str:
    """What the files look like from outside; one line when the folder is gone."""
    seen = []
    try:
        for path in panel_files(folder):
            found = path.stat()
            seen.append((str(path), found.st_mtime_ns, found.st_size))
    except (ConsoleError, OSError) as error:
        return str(error)
    return tuple(seen)


class PanelFiles:
    """Looks at the panel files once a second, in a thread: a slow disk never holds the screen."""

    def __init__(self, folder: Path | None, wait: Callable[[float], bool] | None = None) -> None:
        """`wait` takes seconds and says whether to end; a test's turns the time."""
        self._folder = folder
        self._closed = Flag()
        self._wait = wait or self._closed.wait
        self._stamp = stamp(folder)
        self._told: Told = _nobody
        self._thread = Thread(target=self._run, name="panel files", daemon=True)

    def start(self, told: Told) -> None:
        """Begin to watch."""
        self._told = told
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _run(self) -> None:
        while not self._wait(EVERY_S) and not self._closed.is_set():
            self.look()

    def look(self) -> None:
        """Tell of the panels when their files differ from those looked at before."""
        now = stamp(self._folder)
        if now == self._stamp:
            return
        self._stamp = now
        if isinstance(now, str):
            self._told(now)
            return
        try:
            self._told(load_panels(self._folder))
        except ConsoleError as error:
            self._told(str(error))


def _nobody(news: tuple[PanelSpec, ...] | str) -> None:
    return None
