"""Make every picture in screenshots/ from the scripted fleet, so that they cannot drift.

    python scripts/screenshots.py [NAME …]

Needs two fonts of the system: Fira Code and DejaVu Sans (which has the braille).
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ.pop("NO_COLOR", None)
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.ui.playing import MOMENT, Stage  # noqa: E402
from tests.ui.scripted import LabFleet  # noqa: E402
from vllm_console.snapshot import Snapshot  # noqa: E402

OUT = ROOT / "screenshots"
SCALE = 0.77
"""Pixels a unit of the SVG: sharp enough to read, small enough to commit."""
FONTS = Path("/usr/share/fonts")
NEEDED = (
    "FiraCode-Regular.ttf",
    "FiraCode-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSans.ttf",
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: the terminal's size, the fleet, the keys pressed before."""

    size: tuple[int, int] = (160, 48)
    fleet: LabFleet = field(default_factory=lambda: LabFleet(alerts=False, gateway=True))
    keys: tuple[str, ...] = ()
    theme: str = "console-night"
    change: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot


def no_gpu(snapshot: Snapshot) -> Snapshot:
    """The same fleet on a machine without GPUs."""
    models = tuple(
        replace(
            m,
            memory=replace(m.memory, device="host"),
            workers=tuple(replace(w, gpus=()) for w in m.workers),
        )
        for m in snapshot.models
    )
    return replace(snapshot, models=models, gpus=())


ALERT = LabFleet(fourth="failed", gateway=True)
MANY = LabFleet(models=64, gpus=64, gateway=True)
PICTURES = {
    "console_160x48": Picture(keys=("down",)),
    "alert_160x48": Picture(fleet=ALERT, keys=("down",)),
    "failed_160x48": Picture(fleet=ALERT, keys=("end",)),
    "loading_160x48": Picture(keys=("down", "down", "down", "down")),
    "empty_160x48": Picture(fleet=LabFleet(models=0, gateway=True)),
    "no_gpu_160x48": Picture(fleet=LabFleet(gpus=0, alerts=False, gateway=True), change=no_gpu),
    "64models_160x48": Picture(
        fleet=LabFleet(models=64, gpus=64, gateway=True), keys=("down",) * 9
    ),
    "detail_160x48": Picture(fleet=ALERT, keys=("down", "enter")),
    "zoom_160x48": Picture(keys=("2", "z")),
    "zoom_scaling_160x48": Picture(keys=("4", "z")),
    "history_160x48": Picture(keys=("down", "H", "2")),
    "config_160x48": Picture(keys=("down", "enter", "2")),
    "palette_160x48": Picture(keys=("colon",)),
    "apply_160x48": Picture(keys=("F", "enter")),
    "past_160x48": Picture(fleet=ALERT, keys=("down", "left_square_bracket")),
    "plan_100x30": Picture((100, 30), keys=("end", "P")),
    "confirm_100x30": Picture((100, 30), keys=("u",)),
    "wide_240x60": Picture((240, 60), ALERT),
    "grid_120x44": Picture((120, 44), ALERT),
    "grid_100x30": Picture((100, 30), ALERT),
    "tabs_80x24": Picture((80, 24), ALERT, ("down",)),
    "tabs_performance_80x24": Picture((80, 24), ALERT, ("down", "2")),
    "light_160x48": Picture(fleet=ALERT, theme="console-day"),
    "nord_160x48": Picture(fleet=ALERT, theme="nord"),
}


async def svg(picture: Picture) -> str:
    """The screen as Textual exports it."""
    stage = Stage(
        picture.fleet, first=picture.change(picture.fleet.at(MOMENT)), theme=picture.theme
    )
    async with stage.app.run_test(size=picture.size) as pilot:
        await stage.shown(pilot)
        for key in picture.keys:
            await pilot.press(key)
        await pilot.pause()
        await stage.settled(pilot)
        return stage.app.export_screenshot(simplify=True)


def with_braille(text: str) -> str:
    """Blanks inside braille become blank braille, so that one font sets the whole graph."""

    def blanks(match: re.Match[str]) -> str:
        inside = match.group(2)
        if not re.search("[\u2801-\u28ff]", inside):
            return match.group(0)
        return match.group(1) + inside.replace("&#160;", "\u2800").replace("\xa0", "\u2800") + "<"

    return re.sub(r"(>)([^<>]*)<", blanks, text)


def png(text: str, fonts: list[str]) -> bytes:
    """The SVG as a PNG."""
    import resvg_py

    text = re.sub(r"@font-face\s*{[^}]*}", "", text)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=with_braille(text),
            width=round(float(box.group(1)) * SCALE),
            font_files=fonts,
            skip_system_fonts=True,
            font_family="DejaVu Sans",
        )
    )


def find_fonts() -> list[str]:
    """The paths of the fonts; leaves with one line when one is missing."""
    found = {path.name: str(path) for path in FONTS.rglob("*.ttf")}
    missing = [name for name in NEEDED if name not in found]
    if missing:
        sys.exit(
            f"screenshots: {', '.join(missing)} not found under {FONTS}; "
            "apt-get install fonts-firacode fonts-dejavu-core"
        )
    return [found[name] for name in NEEDED]


def main(names: list[str]) -> int:
    """Make the named pictures, or all."""
    unknown = [name for name in names if name not in PICTURES]
    if unknown:
        sys.exit(f"screenshots: no picture {', '.join(unknown)}; one of {', '.join(PICTURES)}")
    fonts = find_fonts()
    OUT.mkdir(exist_ok=True)
    for name in names or PICTURES:
        data = png(asyncio.run(svg(PICTURES[name])), fonts)
        (OUT / f"{name}.png").write_bytes(data)
        print(f"{name}.png  {len(data) / 1024:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
