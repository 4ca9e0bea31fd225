"""The whole screen at three sizes, as SVG: colours, borders and places, not only words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from tests.ui.playing import Stage
from tests.ui.scripted import LabFleet


@pytest.mark.parametrize(
    ("size", "keys"),
    [((160, 48), ("down",)), ((100, 30), ()), ((80, 24), ("end",))],
    ids=["row_160x48", "grid_100x30", "tabs_80x24"],
)
def test_the_dashboard(
    snap_compare: Callable[..., bool], size: tuple[int, int], keys: tuple[str, ...]
) -> None:
    stage = Stage(LabFleet(fourth="failed"))

    async def before(pilot: Pilot[None]) -> None:
        await stage.shown(pilot)
        for key in keys:
            await pilot.press(key)
        await pilot.pause()

    assert snap_compare(stage.app, terminal_size=size, run_before=before)
