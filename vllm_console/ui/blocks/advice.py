"""Where advice on the batch will stand."""

from __future__ import annotations

from vllm_console.ui.rows import Row, head, wrap
from vllm_console.ui.view import View


def ask(view: View, width: int, height: int) -> int:
    """As many rows as its text takes."""
    return len(draw(view, width, 99))


def draw(view: View, width: int, height: int) -> list[Row]:
    """This version gives none, and says so."""
    return [
        head("advice", width, ("not in this version", "dim")),
        *wrap("a later one says what to change, and why", width, "dim"),
    ][:height]
