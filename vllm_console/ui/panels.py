"""What each panel shows: panel files (`panels/*.toml`) read and checked.

title = "engines"
hue = "engines"                       # one of the four hues
[limits.kv_cache_usage]
warn = 0.85
crit = 0.95
[[blocks]]
block = "models"                      # a name of `blocks.BLOCKS`
height = "auto"                       # rows, "auto" (what the block asks for) or "1fr", "2fr"
min = 3                               # it is left out rather than shown with fewer rows
max = "45%"                           # rows, or a share of the panel
at = ["row", "grid", "tabs", "zoom"]  # layouts it is shown at; all of them when left out
keep = 9                              # 0..9: blocks with the lowest go first when room is short
room = 40                             # only in a panel of at least so many rows
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_console.errors import InvalidInput
from vllm_console.ui.blocks import BLOCKS
from vllm_console.ui.mistakes import Mistake, known_keys, line_of, no_such, read_toml
from vllm_console.ui.view import Limit

NAMES = ("engines", "performance", "batching", "scaling")
"""The panels that are always there, in the order of their keys 1 to 4; also the hues."""
MOST = 9
"""Panels that have a key."""
LIMITS = ("gpu_temperature_c", "kv_cache_usage", "load", "waiting")
"""Thresholds that blocks ask for."""
LAYOUTS = ("row", "grid", "tabs", "zoom")


@dataclass(frozen=True, slots=True)
class Placed:
    """One block of a panel file."""

    block: str
    rows: int | None = None
    """A fixed height."""
    share: int = 0
    """Parts of what is left over; 0 for a fixed or an `auto` height."""
    min: int = 1
    max: int | float | None = None
    """Rows, or a share of the panel 0..1 when it is a float."""
    at: tuple[str, ...] = LAYOUTS
    keep: int = 5
    room: int = 0


@dataclass(frozen=True, slots=True)
class PanelSpec:
    """One panel file."""

    name: str
    title: str
    hue: str
    blocks: tuple[Placed, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    problem: str | None = None
    """Why the file cannot be used, with its name and line; the panel shows this instead."""


def packaged() -> Path:
    """The folder of the panel files that come with the console, installed or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_data" / "panels"
    return installed if installed.is_dir() else package.parent / "panels"


def load_panels(folder: Path | None = None) -> tuple[PanelSpec, ...]:
    """The four panels, then the user's own; of the four, what `folder` lacks is the packaged one.

    Own panels are the other files of `folder`, by name, as many as there are keys. A mistake in a
    file is that panel's `problem`. A folder that does not exist raises `InvalidInput`.
    """
    return tuple(read_panel(path) for path in panel_files(folder))


def panel_files(folder: Path | None = None) -> list[Path]:
    """The files of `load_panels`, in the order of their keys."""
    if folder is not None and not folder.is_dir():
        raise InvalidInput(
            f"[ui] panels: {folder} is not a folder; copy the packaged one from {packaged()}"
        )
    files = []
    for name in NAMES:
        path = packaged() / f"{name}.toml"
        if folder is not None and (folder / path.name).is_file():
            path = folder / path.name
        files.append(path)
    own = [] if folder is None else sorted(folder.glob("*.toml"))
    files += [path for path in own if path.stem not in NAMES]
    return files[:MOST]


def read_panel(path: Path) -> PanelSpec:
    """One panel file; what is wrong with it ends up in `problem`."""
    name = path.stem
    try:
        data, lines = read_toml(path)
        return _panel(name, data, lines)
    except Mistake as mistake:
        return _broken(name, mistake.at(path))


def _broken(name: str, problem: str) -> PanelSpec:
    return PanelSpec(name, name, _usual_hue(name), problem=problem)


def _usual_hue(name: str) -> str:
    return name if name in NAMES else NAMES[0]


def _panel(name: str, data: Mapping[str, Any], lines: list[str]) -> PanelSpec:
    known_keys(data, ("title", "hue", "limits", "blocks"), lines, 0)
    title = data.get("title", name)
    if not isinstance(title, str):
        raise Mistake("title must be text", line_of(lines, 0, "title"))
    hue = data.get("hue", _usual_hue(name))
    if hue not in NAMES:
        raise Mistake(no_such("hue", hue, NAMES), line_of(lines, 0, "hue"))
    limits: dict[str, Limit] = {}
    raw = data.get("limits", {})
    if not isinstance(raw, dict):
        raise Mistake("limits must be tables: [limits.kv_cache_usage]", line_of(lines, 0, "limits"))
    for key, value in raw.items():
        start = line_of(lines, 0, f"[limits.{key}]") or 1
        if key not in LIMITS:
            raise Mistake(no_such("limit", key, LIMITS), start)
        if not isinstance(value, dict):
            raise Mistake(f"limits.{key} must be a table with warn and crit", start)
        known_keys(value, ("warn", "crit"), lines, start)
        for end, number in value.items():
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise Mistake(f"limits.{key}.{end} must be a number", line_of(lines, start, end))
        limits[key] = Limit(value.get("warn"), value.get("crit"))
    raw_blocks = data.get("blocks", [])
    if not isinstance(raw_blocks, list) or not raw_blocks:
        raise Mistake("it lists no blocks: [[blocks]]", line_of(lines, 0, "blocks"))
    starts = [i + 1 for i, line in enumerate(lines) if line.split("#")[0].strip() == "[[blocks]]"]
    starts += [0] * (len(raw_blocks) - len(starts))
    blocks = tuple(_placed(b, lines, at) for b, at in zip(raw_blocks, starts, strict=False))
    return PanelSpec(name, title, hue, blocks, limits)


def _placed(data: Any, lines: list[str], start: int) -> Placed:
    if not isinstance(data, dict):
        raise Mistake("a block must be a table: [[blocks]]", start or None)
    known_keys(data, ("block", "height", "min", "max", "at", "keep", "room"), lines, start)
    block = data.get("block")
    if block is None:
        raise Mistake('a block has no name: block = "models"', start or None)
    if block not in BLOCKS:
        raise Mistake(no_such("block", block, BLOCKS), line_of(lines, start, "block"))

    def whole(key: str, default: int, most: int = 10_000) -> int:
        value = data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise Mistake(
                f"{key} must be a whole number from 0 to {most}", line_of(lines, start, key)
            )
        return value

    rows, share = _height(data.get("height", "auto"), block, line_of(lines, start, "height"))
    at = data.get("at", list(LAYOUTS))
    if not isinstance(at, list) or not at:
        raise Mistake('at must be a list: at = ["row", "grid"]', line_of(lines, start, "at"))
    for layout in at:
        if layout not in LAYOUTS:
            raise Mistake(no_such("layout", layout, LAYOUTS), line_of(lines, start, "at"))
    return Placed(
        block,
        rows,
        share,
        whole("min", rows or (4 if share else 2)),
        _most(data.get("max"), line_of(lines, start, "max")),
        tuple(at),
        whole("keep", 5, 9),
        whole("room", 0),
    )


def _height(value: Any, block: str, line: int | None) -> tuple[int | None, int]:
    """(fixed rows, share of what is left over)."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value, 0
    if value == "auto":
        if BLOCKS[block].ask is None:
            raise Mistake(f'the block {block} has no height of its own: height = 5 or "1fr"', line)
        return None, 0
    if isinstance(value, str) and value.endswith("fr") and value[:-2].isdigit() and int(value[:-2]):
        return None, int(value[:-2])
    raise Mistake('height must be a number of rows, "auto" or "1fr"', line)


def _most(value: Any, line: int | None) -> int | float | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    if isinstance(value, str) and value.endswith("%") and value[:-1].isdigit():
        return int(value[:-1]) / 100
    raise Mistake('max must be a number of rows or a share of the panel such as "45%"', line)
