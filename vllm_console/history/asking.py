"""Makes a question of what a person wrote, or says in one line what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import tzinfo

from vllm_console.answer import Question
from vllm_console.errors import InvalidInput
from vllm_console.fleet.duration import format_duration, parse_duration
from vllm_console.history.askable import askable
from vllm_console.history.when import is_duration, moment, on_grid

SINCE = "1h"
STEPS_MAX = 5000
PARTS = ("worker", "revision", "model", "key")


def question(
    subject: str,
    *,
    metrics: Sequence[str] = (),
    quantiles: str = "50,95,99",
    since: str = SINCE,
    until: str = "now",
    step: str | None = None,
    by: str | None = None,
    compare: str | None = None,
    now: float,
    zone: tzinfo | None = None,
) -> Question:
    """A question as `history` and the control API take it; `now` is in seconds since the epoch.

    A span that is given as so long ago begins on a whole step. Raises `InvalidInput`.
    """
    for name in metrics:
        askable(name)
    begin, end = moment(since, now, zone), min(moment(until, now, zone), now)
    if begin >= now:
        raise InvalidInput(f"since {since}: is not in the past")
    if begin >= end:
        raise InvalidInput(f"since {since}: is not before {until}, where the span ends")
    length = None if step is None else _step(step, end - begin)
    if length is not None and is_duration(since):
        begin = on_grid(begin, length, zone)
    if by is not None and by not in PARTS:
        raise InvalidInput(f"by {by}: {_near(by, PARTS)}")
    if compare not in (None, "previous"):
        raise InvalidInput(f"compare {compare}: the one thing to compare with is previous")
    if compare and by == "revision":
        raise InvalidInput("by revision: compares revisions already; leave out the comparison")
    return Question(
        subject,
        tuple(dict.fromkeys(metrics)),
        begin,
        end,
        _percents(quantiles),
        length,
        by,
        compare is not None,
    )


def _step(text: str, span: float) -> float:
    try:
        step = float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError as error:
        raise InvalidInput(f"step: {error}") from None
    if not 1 <= step <= span:
        raise InvalidInput(f"step {text}: is not between 1s and the {format_duration(span)} asked")
    if span / step > STEPS_MAX:
        fits = format_duration(-(-span // STEPS_MAX))
        raise InvalidInput(f"step {text}: makes more than {STEPS_MAX} rows; {fits} does not")
    return step


def _percents(text: str) -> tuple[float, ...]:
    found: dict[float, None] = {}
    for word in text.replace(",", " ").split():
        try:
            percent = float(word.lower().removeprefix("p").removesuffix("%"))
        except ValueError:
            percent = float("nan")
        if 0 < percent < 1:
            raise InvalidInput(f'quantile {word}: is in percent; write "{percent * 100:g}"')
        if not 0 < percent < 100:
            raise InvalidInput(f'quantile {word}: is not between 0 and 100; write "50,95,99"')
        found[percent] = None
    if not found:
        raise InvalidInput('no quantile; write "50,95,99"')
    return tuple(found)


def _near(text: str, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(text, words, n=1)
    return f'did you mean "{near[0]}"?' if near else f"is one of {', '.join(words)}"
