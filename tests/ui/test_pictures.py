"""The whole screen as SVG: colours, borders and places, not only words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from tests.ui.playing import Stage
from tests.ui.scripted import LabFleet

FAILED = LabFleet(fourth="failed")
Size = tuple[int, int]


@pytest.mark.parametrize(
    ("size", "keys"),
    [((160, 48), ("down",)), ((100, 30), ()), ((80, 24), ("end",))],
    ids=["row_160x48", "grid_100x30", "tabs_80x24"],
)
def test_the_dashboard(
    snap_compare: Callable[..., bool], size: Size, keys: tuple[str, ...]
) -> None:
    assert compared(snap_compare, Stage(FAILED), size, keys)


@pytest.mark.parametrize(
    ("fleet", "keys"),
    [
        (FAILED, ("down", "enter")),
        (FAILED, ("down", "enter", "2")),
        (FAILED, ("E",)),
        (FAILED, ("down", "H", "2")),
        (FAILED, ("end", "P")),
        (FAILED, ("F",)),
        (FAILED, ("question_mark",)),
        (FAILED, ("u",)),
        (FAILED, ("down", "left_square_bracket")),
        (LabFleet(models=0), ()),
        (LabFleet(models=64, gpus=64), ("down",) * 9),
    ],
    ids=[
        "worker",
        "configuration",
        "events",
        "history",
        "plan",
        "fleet_file",
        "help",
        "confirm",
        "past",
        "empty",
        "64_models",
    ],
)
def test_a_screen(
    snap_compare: Callable[..., bool], fleet: LabFleet, keys: tuple[str, ...]
) -> None:
    assert compared(snap_compare, Stage(fleet), (100, 30), keys)


@pytest.mark.parametrize("theme", ["console-day", "nord"])
def test_a_theme(snap_compare: Callable[..., bool], theme: str) -> None:
    assert compared(snap_compare, Stage(FAILED, theme=theme), (100, 30), ("down",))


def compared(
    snap_compare: Callable[..., bool], stage: Stage, size: Size, keys: tuple[str, ...]
) -> bool:
    """Whether the screen after these keys is the one that was kept."""

    async def before(pilot: Pilot[None]) -> None:
        await stage.shown(pilot)
        for key in keys:
            await pilot.press(key)
        await pilot.pause()
        await stage.settled(pilot)

    return snap_compare(stage.app, terminal_size=size, run_before=before)
