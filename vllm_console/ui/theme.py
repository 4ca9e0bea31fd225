"""Colours: two themes of our own, inks derived for any other, and inks as terminal styles.

One hue a panel for identity; green, amber and red only for state. Text comes in four inks
(value, text, label, dim) and a fifth, track, for the empty part of a bar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from rich.style import Style
from textual.color import Color
from textual.theme import Theme

from vllm_console.ui.rows import SHADES

PANELS = ("engines", "performance", "batching", "scaling")
DEFAULT = "console-night"

_BLENDS = (("value", 1.0), ("label", 0.68), ("dim", 0.45), ("track", 0.16), ("select", 0.14))
"""How far an ink lies from the background towards the foreground in a theme that is not ours."""
_LEAST_CONTRAST = 4.5
"""Between any text and its background (WCAG 2.2, 1.4.3)."""
_LEAST_SHADE = "0.24"
"""How far the darkest shade of a hue lies from the background towards the hue."""
_DARK = 0.18
"""Relative luminance of a background below which white reads better on it than black (WCAG 2.2)."""
_EDGE = 0.38
"""How far a border lies from the background towards its panel's hue."""


def _theme(
    name: str, *, dark: bool, base: tuple[str, str, str, str], state: tuple[str, str, str],
    inks: tuple[str, str, str, str, str], hues: tuple[str, str, str, str],
) -> Theme:  # fmt: skip
    foreground, background, surface, panel = base
    ok, warn, crit = state
    variables = dict(
        zip(("ink-value", "ink-label", "ink-dim", "ink-track", "ink-select"), inks, strict=True)
    )
    variables |= {f"hue-{p}": hue for p, hue in zip(PANELS, hues, strict=True)}
    variables |= {f"edge-{p}": _blend(background, variables[f"hue-{p}"], _EDGE) for p in PANELS}
    return Theme(
        name=name, dark=dark, primary=hues[0], secondary=hues[1], accent=warn,
        foreground=foreground, background=background, surface=surface, panel=panel,
        success=ok, warning=warn, error=crit, variables=variables,
    )  # fmt: skip


def _blend(background: str, foreground: str, factor: float) -> str:
    return Color.parse(background).blend(Color.parse(foreground), factor).hex


def contrast(one: Color, two: Color) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(two)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Color) -> float:
    parts = [v / 255 for v in (colour.r, colour.g, colour.b)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def readable(colour: Color, ground: Color) -> Color:
    """The colour, moved towards black or white until it can be read on its ground."""
    white, black = Color(255, 255, 255), Color(0, 0, 0)
    end = white if contrast(white, ground) > contrast(black, ground) else black
    for step in range(21):
        moved = colour.blend(end, step / 20)
        if contrast(moved, ground) >= _LEAST_CONTRAST:
            return moved
    return end


NIGHT = _theme(
    "console-night",
    dark=True,
    base=("#d5dde8", "#0b0f14", "#0f141b", "#161d27"),
    state=("#63c174", "#e5b53d", "#f2635e"),
    inks=("#e8eef6", "#94a1b2", "#738194", "#222b37", "#1c2a3a"),
    hues=("#6cb6ff", "#57c7b6", "#b294f2", "#e39a5b"),
)
DAY = _theme(
    "console-day",
    dark=False,
    base=("#24303d", "#fbfcfd", "#f4f6f9", "#e9edf2"),
    state=("#1a7f37", "#9a6700", "#c62828"),
    inks=("#10181f", "#4d5a6a", "#677484", "#dde3ea", "#dce8f6"),
    hues=("#1667c2", "#0b7a6c", "#6f42c1", "#b35900"),
)

SIXTEEN = _theme(
    "console-16",
    dark=True,
    base=("#e5e5e5", "#000000", "#000000", "#000000"),
    state=("#00ff00", "#ffff00", "#ff0000"),
    inks=("#ffffff", "#e5e5e5", "#7f7f7f", "#7f7f7f", "#0000ee"),
    hues=("#5c5cff", "#00ffff", "#ff00ff", "#cdcd00"),
)
"""For a terminal of 16 colours: each of these is one of them, so that none becomes its ground."""
SIXTEEN.variables["shade-least"] = "0.55"
OURS = (NIGHT, DAY, SIXTEEN)


def derived(theme: Theme) -> dict[str, str]:
    """The variables our styles need, for a theme that does not set them itself."""
    ours = NIGHT if theme.dark else DAY
    background = theme.background or ("#121212" if theme.dark else "#fbfcfd")
    foreground = theme.foreground or ("#e0e0e0" if theme.dark else "#1f1f1f")
    variables = {f"ink-{name}": _blend(background, foreground, by) for name, by in _BLENDS}
    for name in ("label", "dim"):
        ink = Color.parse(variables[f"ink-{name}"])
        variables[f"ink-{name}"] = readable(ink, Color.parse(background)).hex
    for panel in PANELS:
        hue = ours.variables[f"hue-{panel}"]
        variables[f"hue-{panel}"] = hue
        variables[f"edge-{panel}"] = _blend(background, hue, _EDGE)
    return variables


COLOURS: Mapping[str, str] = {
    **{name: name for name in ("foreground", "background", "surface", "panel")},
    "ok": "success", "warn": "warning", "crit": "error",
    **{name: f"ink-{name}" for name in ("value", "label", "dim", "track", "select")},
    **{name: f"hue-{name}" for name in PANELS},
}  # fmt: skip
"""What a theme of a user's own may set, and where it stands in a theme."""


def tinted(name: str, base: Theme, colours: Mapping[str, str]) -> Theme:
    """A theme with some colours, by the names of `COLOURS`, in place of another's.

    Where a new foreground or background comes without inks of its own, they are derived from it.
    """
    named = {COLOURS[key]: colour for key, colour in colours.items()}
    ground = Color.parse(named.get("background") or base.background or NIGHT.background or "")
    made = replace(base, name=name, dark=_luminance(ground) < _DARK, variables={})
    for key in named:
        if not key.startswith(("ink-", "hue-")):
            setattr(made, key, named[key])
    derive = not base.variables.keys() >= {"ink-value"} or {"foreground", "background"} & set(named)
    variables = {**base.variables, **(derived(made) if derive else {})}
    variables |= {key: value for key, value in named.items() if key.startswith(("ink-", "hue-"))}
    if derive:  # the hues of a theme of ours were chosen for its ground
        variables |= {
            f"hue-{p}": base.variables[f"hue-{p}"]
            for p in PANELS
            if f"hue-{p}" in base.variables and f"hue-{p}" not in named
        }
    variables |= {f"edge-{p}": _blend(ground.hex, variables[f"hue-{p}"], _EDGE) for p in PANELS}
    made.variables = variables
    return made


class Inks(dict[str, Style]):
    """Styles by ink name for one theme, made when first asked for.

    >>> inks["warn!"], inks["engines3"], inks["on track"], inks["value@"], inks["text@warn"]
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__()
        colour = {name: Color.parse(variables[name]) for name in _NEEDED}
        self._background = colour["background"]
        self._colours = {
            "": colour["foreground"],
            "text": colour["foreground"],
            "ok": colour["success"],
            "warn": colour["warning"],
            "crit": colour["error"],
            **{name: colour[f"ink-{name}"] for name in ("value", "label", "dim", "track")},
            **{name: colour[f"hue-{name}"] for name in PANELS},
        }
        for panel in PANELS:
            least = float(variables.get("shade-least", _LEAST_SHADE))
            for shade in range(SHADES):
                depth = least + (1.0 - least) * shade / (SHADES - 1)
                self._colours[f"{panel}{shade}"] = self._background.blend(
                    colour[f"hue-{panel}"], depth
                )

        self._grounds = {
            "": colour["ink-select"],
            **{
                state: self._background.blend(self._colours[state], 0.14)
                for state in ("warn", "crit")
            },
        }

    def __missing__(self, ink: str) -> Style:
        name, at, ground = ink.partition("@")
        base, bold, _ = name.partition("!")
        under = self._grounds[ground] if at else self._background
        if base.startswith("on "):
            style = Style(bgcolor=self._colours[base[3:]].rich_color)
        else:
            colour = self._colours[base]
            if base in _READ:
                colour = readable(colour, under)
            style = Style(
                color=colour.rich_color,
                bgcolor=under.rich_color,
                bold=bool(bold) or base == "value",
            )
        self[ink] = style
        return style


_READ = frozenset({"", "text", "value", "label", "dim", "ok", "warn", "crit", *PANELS})
"""Inks that text is written in; the others only fill."""

_NEEDED = (
    "foreground", "background", "success", "warning", "error",
    "ink-value", "ink-label", "ink-dim", "ink-track", "ink-select",
    *(f"hue-{name}" for name in PANELS),
)  # fmt: skip


@lru_cache(maxsize=4)
def _inks(values: tuple[str, ...]) -> Inks:
    return Inks(dict(zip((*_NEEDED, "shade-least"), values, strict=True)))


def inks(variables: Mapping[str, str]) -> Inks:
    """The inks of a theme's variables."""
    shade = variables.get("shade-least", _LEAST_SHADE)
    return _inks((*(variables[name] for name in _NEEDED), shade))


def usual(environ: Mapping[str, str]) -> str:
    """The name of the theme that fits a terminal's colours, where none is asked for."""
    from rich.console import Console

    colours = Console(force_terminal=True, _environ=environ).color_system
    return SIXTEEN.name if colours == "standard" else DEFAULT
