"""Rows of what happened: events, and the audit of who asked for what."""

from __future__ import annotations

from datetime import datetime, tzinfo

from vllm_console.snapshot import AuditEntry, Event
from vllm_console.ui.format import clock
from vllm_console.ui.rows import Row, left
from vllm_console.ui.states import LEVELS

_SUBJECT = 20
_WIDE = 100


def day_and_time(at: str, zone: tzinfo | None) -> str:
    """`11-20 12:04:31`."""
    try:
        return datetime.fromisoformat(at).astimezone(zone).strftime("%m-%d %H:%M:%S")
    except ValueError:
        return clock(at, zone)


def event_row(event: Event, width: int, zone: tzinfo | None, *, subject: bool = True) -> Row:
    """Time, level, subject, text, and what to do about a failure."""
    glyph, ink = LEVELS.get(event.level, LEVELS["info"])
    time = day_and_time(event.at, zone) if width >= _WIDE else clock(event.at, zone)
    row: Row = [(time + "  ", "dim"), (glyph + " ", ink + "!" if ink != "label" else ink)]
    if subject:
        size = _SUBJECT if width >= _WIDE else 14
        row += [(left(event.subject, size), "label"), ("  ", "")]
    row.append((event.text, ink if event.level in ("warn", "crit") else "text"))
    if event.failure is not None:
        row.append((f"  → {event.failure.remedy}", "label"))
    return row


def event_text(event: Event) -> str:
    """An event as one line of text."""
    remedy = f" → {event.failure.remedy}" if event.failure else ""
    return f"{event.at}  {event.level}  {event.subject}  {event.text}{remedy}"


def audit_row(entry: AuditEntry, width: int, zone: tzinfo | None) -> Row:
    """Time, outcome, who, what, and why not."""
    done = entry.outcome == "ok"
    time = day_and_time(entry.at, zone) if width >= _WIDE else clock(entry.at, zone)
    row: Row = [(time + "  ", "dim"), ("● " if done else "✖ ", "ok!" if done else "crit!")]
    row += [(left(entry.user or "–", 10), "label"), ("  ", "")]
    program = entry.client.partition(" ")[2] or entry.client
    if width >= _WIDE:
        row += [(left(program, _SUBJECT), "dim"), ("  ", "")]
    row.append((left(_said(entry), 34 if width >= _WIDE else 24), "text"))
    took = f" after {entry.seconds:.1f} s" if entry.seconds >= 0.1 else ""
    row.append((f"  {entry.outcome}{took}", "label" if done else "crit"))
    return row


def audit_text(entry: AuditEntry) -> str:
    """An entry as one line of text."""
    return f"{entry.at}  {entry.user or '–'}  {entry.client}  {_said(entry)}  {entry.outcome}"


def _said(entry: AuditEntry) -> str:
    shown = {k: v for k, v in entry.arguments.items() if k not in ("digest", "wait")}
    return " ".join(
        [entry.verb, *(str(v) if k == "model" else f"{k}={v}" for k, v in shown.items())]
    )
