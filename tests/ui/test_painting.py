"""Nothing is painted where nothing changed, and a terminal that nobody looks at costs little."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.pilot import Pilot

from tests.ui.playing import MOMENT, Stage
from tests.ui.scripted import LabFleet
from vllm_console.ui.lines import Lines

ROW = (160, 48)


class Painted:
    """Counts the lines that each widget repaints."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.lines: dict[str, int] = {}
        refresh = Lines.refresh

        def noted(widget: Lines, *regions: object, **more: object) -> Lines:
            name = widget.id or ""
            self.lines[name] = self.lines.get(name, 0) + (len(regions) or widget.size.height)
            return refresh(widget, *regions, **more)  # type: ignore[arg-type]

        patch.setattr(Lines, "refresh", noted)


async def ready(stage: Stage, pilot: Pilot[None]) -> None:
    await stage.shown(pilot)
    await stage.settled(pilot)


async def test_the_same_picture_again_paints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(LabFleet(fourth="failed"))
    async with stage.app.run_test(size=ROW) as pilot:
        await ready(stage, pilot)
        painted = Painted(monkeypatch)
        stage.app.paint()
        await pilot.pause()
        assert painted.lines == {}


async def test_a_second_in_which_nothing_happens_paints_the_time_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(LabFleet(models=0))
    async with stage.app.run_test(size=ROW) as pilot:
        await ready(stage, pilot)
        painted = Painted(monkeypatch)
        last = stage.client.fleet.at(MOMENT)
        await stage.push(pilot, replace(last, at="2026-11-20T12:04:32+00:00"))
        assert painted.lines == {"fleet": 1}


async def test_the_past_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await ready(stage, pilot)
        await pilot.press("left_square_bracket")
        await stage.settled(pilot)
        await stage.until(pilot, lambda: stage.app.board.past is not None)
        await pilot.pause()
        painted = Painted(monkeypatch)
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 1))
        stage.app.tick()
        await pilot.pause()
        assert painted.lines == {}
