"""Colours: every ink that text is written in can be read on every ground it stands on."""

from __future__ import annotations

import pytest
from textual.color import Color
from textual.theme import Theme

from tests.ui.scripted import ScriptedClient
from vllm_console.ui import theme
from vllm_console.ui.console import Console

TEXTS = ("text", "value", "label", "dim", "ok", "warn", "crit", *theme.PANELS)


def console(name: str) -> Console:
    return Console(ScriptedClient, theme_name=name, ticking=False)


@pytest.mark.parametrize("name", ["console-night", "console-day", "nord", "gruvbox", "dracula"])
def test_text_has_a_contrast_of_at_least_4_5_on_every_ground(name: str) -> None:
    inks = console(name).inks
    for ink in TEXTS:
        for ground in ("", "@", "@warn", "@crit"):
            style = inks[ink + ground]
            assert style.color is not None
            assert style.bgcolor is not None
            ratio = theme.contrast(
                Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
            )
            assert ratio >= 4.5, (ink + ground, ratio)


@pytest.mark.parametrize("ours", [theme.NIGHT, theme.DAY])
def test_our_own_inks_need_no_correction(ours: Theme) -> None:
    ground = Color.parse(ours.background or "")
    for name in ("ink-value", "ink-label", "ink-dim"):
        assert theme.contrast(Color.parse(ours.variables[name]), ground) >= 4.5


def test_contrast_is_that_of_wcag() -> None:
    white, black, grey = Color(255, 255, 255), Color(0, 0, 0), Color.parse("#767676")
    assert theme.contrast(white, black) == pytest.approx(21)
    assert theme.contrast(white, grey) == pytest.approx(4.54, abs=0.01)
    assert theme.readable(grey, white) == grey
