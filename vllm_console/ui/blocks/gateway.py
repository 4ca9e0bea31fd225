"""The one OpenAI endpoint of the fleet: where it is, what goes through it, what waits before it."""

from __future__ import annotations

from vllm_console.snapshot import STARTS, Gateway, Queued
from vllm_console.ui.format import NONE, count, rate, si, uptime
from vllm_console.ui.rows import Row, Span, cell, half_widths, head, known, pair, wrap
from vllm_console.ui.view import NOT_RECORDED, View

_WORDS_FROM = 48
"""Cells from which the address stands in the title with its scheme and path."""


def ask(view: View, width: int, height: int) -> int:
    """As many rows as its text takes."""
    return len(draw(view, width, 99))


def draw(view: View, width: int, height: int) -> list[Row]:
    """Its address, its rate, what is in flight, waits and is rejected; without it, why."""
    if view.snapshot is None:
        return []
    gateway = view.snapshot.gateway
    if not gateway.running:
        return _absent(view, gateway, width)[:height]
    one, two = half_widths(width)
    url = gateway.url or NONE
    number, unit = uptime(gateway.uptime_s)
    refused = gateway.rejected_per_s
    rows = [
        head("gateway", width, *_up(number, unit)),
        head(url if width >= _WORDS_FROM else address(url), width, *_rate(gateway)),
        pair(
            cell("in flight", count(gateway.in_flight), "", "value", one),
            cell("queued", count(waiting(gateway.queued)), "", "value", two),
            width,
        ),
        cell(
            "rejected a minute",
            NONE if refused is None else si(refused * 60),
            "",
            "warn!" if refused else "value",
            width,
        ),
    ]
    if gateway.reason:
        rows += _reason("▲ ", gateway.reason, width)
    return rows[:height]


def address(url: str) -> str:
    """`127.0.0.1:4000`: what one needs of an address on a narrow line."""
    return url.removeprefix("http://").rstrip("/")


def waiting(queued: Queued) -> int | None:
    """Requests that wait, of all classes; `None` where no class is told."""
    told = [each for each in (queued.high, queued.normal, queued.low) if each is not None]
    return sum(told) if told else None


def _absent(view: View, gateway: Gateway, width: int) -> list[Row]:
    if view.stored:
        return [head("gateway", width, (NOT_RECORDED, "dim"))]
    if gateway.reason == STARTS:
        return [head("gateway", width, ("◐ ", "warn!"), ("starts", "text"))]
    text = "clients ask each worker at its own address"
    rows = [head("gateway", width, ("○ ", "dim"), ("off", "dim"))]
    return [*rows, *wrap(gateway.reason or text, width, "dim", 2)]


def _up(number: str, unit: str) -> list[Span]:
    return [("● ", "ok"), ("up ", "dim"), known(number), (f" {unit}" if unit else "", "dim")]


def _rate(gateway: Gateway) -> list[Span]:
    return [known(rate(gateway.requests_per_s)), (" req/s", "dim")]


def _reason(glyph: str, text: str, width: int) -> list[Row]:
    rows = wrap(text, width - 2, "text", 2)
    return [[(glyph if i == 0 else "  ", "warn!"), *row] for i, row in enumerate(rows)]
