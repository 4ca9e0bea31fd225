"""Whether the fleet is well: alerts now, and what went wrong and was put right in a day."""

from __future__ import annotations

from vllm_console.ui.blocks.alert_line import alerts
from vllm_console.ui.format import NONE, count, uptime
from vllm_console.ui.rows import Row, Span, cell, clip, half_widths, head, pair
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """The status, how long the daemon is up, and four counts of the last hours."""
    snapshot = view.snapshot
    if snapshot is None:
        return []
    found = snapshot.health
    number, unit = uptime(snapshot.daemon.uptime_s)
    one, two = half_widths(width)

    def counted(label: str, value: int | None, size: int, ink: str = "value") -> Row:
        text = NONE if value is None else count(value)
        return cell(label, text, "", ink if value else "value", size)

    return [
        head("health", width, *_status(view)),
        pair(
            cell("daemon up", number, unit, "value", one),
            counted("errors", found.errors, two, "warn!"),
            width,
        ),
        pair(
            counted("restarts", found.restarts, one, "warn!"),
            counted("recoveries", found.recoveries, two),
            width,
        ),
        pair(
            counted("adopted", found.adopted, one),
            clip([(f"in the last {found.hours:g} h", "dim")], two),
            width,
        ),
    ][:height]


def _status(view: View) -> list[Span]:
    """The worst of what is wrong now: no daemon, a critical alert, a warning, nothing.

    Of the past no alert is recorded, so nothing is said to be well.
    """
    if view.lost:
        return [("▲ ", "warn!"), ("no daemon", "text")]
    now = alerts(view)
    if not now and view.stored:
        return [(NONE, "dim")]
    if not now:
        return [("● ", "ok"), ("healthy", "text")]
    number = f"{len(now)} alert" + ("s" if len(now) > 1 else "")
    return [("✖ ", "crit!") if now[0].level == "crit" else ("▲ ", "warn!"), (number, "text")]
