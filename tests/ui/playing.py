"""Consoles over the fake fleet, for tests and screenshots: no timer, no real time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC
from pathlib import Path

from textual.pilot import Pilot

from tests.ui.scripted import Connection, LabFleet, ScriptedClient, StandingClock
from vllm_console.snapshot import Snapshot
from vllm_console.ui.console import Console
from vllm_console.ui.panel_files import PanelFiles
from vllm_console.ui.panels import load_panels
from vllm_console.ui.source import FleetClient, Reader

MOMENT = 140
"""The second of the script that tests look at."""


class Stage:
    """A console, the fake client it talks to, and its clock."""

    def __init__(
        self,
        fleet: LabFleet | None = None,
        *,
        first: Snapshot | None = None,
        panels: Path | None = None,
        theme: str = "console-night",
        themes: Path = Path("no-themes"),
        readonly: bool = False,
        clients: Sequence[FleetClient] = (),
        wait: Callable[[float], bool] | None = None,
        recorded: str | None = None,
        begin: str | None = None,
        panel_files: PanelFiles | None = None,
        ascii_only: bool = False,
    ) -> None:
        self.client = ScriptedClient(fleet, history=400)
        self.clock = StandingClock()
        self.client.push(first or self.client.fleet.at(MOMENT))
        order = iter([*clients, self.client])
        reader = Reader(lambda: next(order), wait)
        self.app = Console(
            lambda: Connection(self.client),
            reader=reader,
            panels=load_panels(panels),
            theme_name=theme,
            themes=themes,
            readonly=readonly,
            clock=self.clock,
            zone=UTC,
            ticking=False,
            recorded=recorded,
            begin=begin,
            panel_files=panel_files,
            ascii_only=ascii_only,
        )
        self.reader = reader

    async def shown(self, pilot: Pilot[None]) -> None:
        """Wait until the first snapshot and the remembered graphs are on the screen."""
        await self.until(pilot, lambda: bool(self.app.board.snapshot))
        subject = "fleet"
        if self.client.fleet.models and not self.reader.lost:
            trends = self.app.board.trends
            await self.until(
                pilot, lambda: len(trends.tail(subject, "generation_tokens_per_s", 9)) > 2
            )
        self.app.paint()
        await pilot.pause()

    async def until(self, pilot: Pilot[None], holds: Callable[[], bool]) -> None:
        """Let the console's messages run until something holds; fails if it never does."""
        for _ in range(2000):
            if holds():
                return
            await pilot.pause(0.005)
        raise AssertionError("it did not happen")

    async def settled(self, pilot: Pilot[None]) -> None:
        """Wait for the threads that a key started, and for what they report."""
        await self.app.workers.wait_for_complete()
        await pilot.pause()
        await pilot.pause()

    async def push(self, pilot: Pilot[None], snapshot: Snapshot) -> None:
        """One second later the daemon sends a snapshot, and it is drawn."""
        self.clock.now += 1.0
        self.client.push(snapshot)
        await self.until(pilot, lambda: self.app.board.snapshot is snapshot)
        await pilot.pause()

    def text(self) -> str:
        """The screen as plain text."""
        rows = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in rows)
