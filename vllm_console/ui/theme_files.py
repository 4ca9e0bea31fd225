"""Themes of a user's own: files of colours that stand in place of another theme's.

# ~/.config/vllm-console/themes/dusk.toml
base = "console-night"        # any theme there is; its colours stay where none is given
background = "#14101c"
foreground = "#e6e0ee"        # also surface, panel
ok = "#7bd88f"                # state: ok, warn, crit
value = "#ffffff"             # inks: value, label, dim, track, select
engines = "#8ab4ff"           # hues of the panels: engines, performance, batching, scaling
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from textual.theme import BUILTIN_THEMES, Theme

from vllm_console.errors import InvalidInput
from vllm_console.ui import theme
from vllm_console.ui.mistakes import Mistake, known_keys, line_of, no_such, read_toml

SHIPPED: Mapping[str, Theme] = {ours.name: ours for ours in theme.OURS} | BUILTIN_THEMES
"""Ours, then Textual's."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{3}|#[0-9a-fA-F]{6}")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_BASE = "base"


def themes_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """$XDG_CONFIG_HOME/vllm-console/themes, whether or not it is there."""
    config = environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "vllm-console" / "themes"


def own_names(folder: Path) -> list[str]:
    """The names of the user's own themes, as they are asked for."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def chosen(name: str, folder: Path) -> Theme:
    """A theme by its name: the file of that name, else one that ships.

    Raises `InvalidInput`, in one line, for a name that is none and for a file with a mistake.
    """
    path = folder / f"{name}.toml"
    if _NAME.fullmatch(name) and path.is_file():
        try:
            return read_theme(path)
        except Mistake as mistake:
            raise InvalidInput(mistake.at(path)) from None
    if name in SHIPPED:
        return SHIPPED[name]
    raise InvalidInput(no_such("theme", name, [*own_names(folder), *SHIPPED]))


def read_theme(path: Path) -> Theme:
    """One theme file; raises `Mistake`."""
    name = path.stem
    if name in SHIPPED:
        raise Mistake(f'"{name}" is the name of a theme that ships: call the file otherwise')
    data, lines = read_toml(path)
    known_keys(data, (_BASE, *theme.COLOURS), lines)
    base = data.pop(_BASE, theme.DEFAULT)
    if base not in SHIPPED:
        raise Mistake(no_such("theme", base, SHIPPED), line_of(lines, 0, _BASE))
    for key, value in data.items():
        if not isinstance(value, str) or not _COLOUR.fullmatch(value):
            raise Mistake(f'{key} must be a colour such as "#6cb6ff"', line_of(lines, 0, key))
    return theme.tinted(name, SHIPPED[base], data)
