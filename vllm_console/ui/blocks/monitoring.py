"""Whether the selected model is well: workers, targets held, alerts, errors in its log."""

from __future__ import annotations

from vllm_console.snapshot import LogErrors, Model
from vllm_console.ui.blocks.alert_line import alerts
from vllm_console.ui.format import age, count
from vllm_console.ui.rows import Row, cell, clip, half_widths, head, meter, pair
from vllm_console.ui.states import look
from vllm_console.ui.view import NOT_RECORDED, View

_LABEL = 11


def ask(view: View, width: int, height: int) -> int:
    """A title, attainment, two counts, and a row for the newest trouble where there is any."""
    return 3 + bool(view.model and _trouble(view, view.model, width))


def draw(view: View, width: int, height: int) -> list[Row]:
    """Health, the share served within the targets, alerts and log errors, and the newest one."""
    model = view.model
    if model is None:
        return []
    one, two = half_widths(width)
    told = logged(model)
    errors = None if told is None else told.errors
    found = len(of_model(view, model))
    rows = [
        head("monitoring", width, *_health(model)),
        _attained(view, model, width),
        pair(
            cell("alerts", str(found), "", "warn!" if found else "value", one),
            cell("log errors", count(errors), "", "warn!" if errors else "value", two),
            width,
        ),
        *_trouble(view, model, width),
    ]
    return rows[:height]


def of_model(view: View, model: Model) -> list[tuple[str, str]]:
    """Level and text of the alerts about a model or one of its workers, the worst first."""
    subjects = {model.name, *(worker.id for worker in model.workers)}
    return [(alert.level, alert.text) for alert in alerts(view) if alert.subject in subjects]


def logged(model: Model) -> LogErrors | None:
    """The errors in the logs of all its workers; `None` where no log is read."""
    told = [worker.log_errors for worker in model.workers if worker.log_errors is not None]
    if not told:
        return None
    newest = min(told, key=lambda t: float("inf") if t.newest_age_s is None else t.newest_age_s)
    return LogErrors(
        sum(t.errors for t in told),
        sum(t.warnings for t in told),
        max(t.since_s for t in told),
        newest.newest,
        newest.newest_age_s,
    )


def _health(model: Model) -> Row:
    shown = look(model.state)
    if shown.group == "ready" and model.ready < model.wanted:
        return [("▲ ", "warn!"), (f"{model.ready} of {model.wanted}", "value"), (" ready", "dim")]
    if shown.group == "ready":
        restarts = sum(worker.restarts for worker in model.workers)
        row: Row = [("● ", "ok"), ("healthy", "text")]
        return [*row, ("  restarts ", "dim"), (str(restarts), "label")] if restarts else row
    return [(shown.glyph + " ", shown.ink), (model.state, "text")]


def _attained(view: View, model: Model, width: int) -> Row:
    """The lowest attainment as a meter, amber below what the target asks for."""
    told = model.attainment
    share = told.overall
    late = share is not None and share < told.goal
    label = "SLA"
    for name in ("ttft", "itl", "e2e"):
        if share is not None and getattr(told, name) == share:
            label = f"SLA {name.upper()}"
            break
    if share is None:
        aims = model.slo
        set_ = any((aims.ttft_p95_s, aims.itl_p95_s, aims.e2e_p95_s))
        why = "no request yet" if set_ else "no target in fleet.toml"
        why = NOT_RECORDED if set_ and view.stored else why
        return [(label.ljust(_LABEL), "label"), *clip([(why, "dim")], width - _LABEL)]
    text = f"{share * 100:.1f}" if share < 0.9995 else "100"
    return [
        (label.ljust(_LABEL), "label"),
        *meter(share, width - _LABEL - 7, "warn" if late else "engines"),
        (f"{text:>6}", "warn!" if late else "value"),
        ("%", "dim"),
    ]


def _trouble(view: View, model: Model, width: int) -> list[Row]:
    """The worst alert, else the newest error of a log."""
    found = of_model(view, model)
    if found:
        level, text = found[0]
        glyph = "✖ " if level == "crit" else "▲ "
        return [clip([(glyph, "crit!" if level == "crit" else "warn!"), (text, "text")], width)]
    told = logged(model)
    if told is not None and told.newest is not None and told.newest_age_s is not None:
        ago = f"{age(told.newest_age_s)} ago "
        return [clip([("· ", "label"), (ago, "dim"), (told.newest, "label")], width)]
    return []
