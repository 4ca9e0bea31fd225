"""`usage`: what was used of which model, by whom, on which day, and what it cost."""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from vllm_console.cli.connect import place_of, print_json
from vllm_console.errors import InvalidInput, NotFound
from vllm_console.fleet.find import Place
from vllm_console.fleet.key_names import ANONYMOUS
from vllm_console.fleet.problems import did_you_mean
from vllm_console.history.account_rows import (
    GROUPS,
    Asked,
    By,
    Line,
    Use,
    day_of,
    keys_in,
    usage_in,
)
from vllm_console.history.accounts import accounts_read
from vllm_console.history.when import FORMS, moment
from vllm_console.ui.format import NONE, count

SUMMARY = "what was used of which model, by whom, on which day, and what it cost"
_DESCRIPTION = """\
What the gateway counted: requests, tokens, GPU time and $, by UTC days. Also without a daemon.

  vllm-console usage                                  the last week, by key
  vllm-console usage --by day,model --since 30d
  vllm-console usage --since 2026-11-01 --until 2026-12-01 --by key,model --csv
"""
_NUMBERS = ("requests", "failed", "prompt", "cached", "generated")
_JUST_BEFORE = 1e-3
"""A span ends before its end: until midnight is not the day after it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `usage`."""
    parser.description = _DESCRIPTION
    parser.epilog = f"A time is {FORMS}, in UTC; the whole day that holds it counts."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    usage_options(parser)


def usage_options(parser: argparse.ArgumentParser) -> None:
    """The options that `usage` and `keys usage` share."""
    add = parser.add_argument
    add("--since", metavar="TIME", default="7d", help="where the span begins (default: 7d ago)")
    add("--until", metavar="TIME", default="now", help="where it ends (default: now)")
    add("--by", metavar="LIST", default="key", help="key, model, day, or several (default: key)")
    add("--key", metavar="NAME", help=f'only of this key; "{ANONYMOUS}" is requests without one')
    add("--model", metavar="MODEL", help="only of this model")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="as one JSON object")
    shape.add_argument("--csv", action="store_true", help="as CSV, one group a line")


def run(args: argparse.Namespace) -> int:
    """Print a line a group, and their sum."""
    asked = _asked(args, time.time())
    place = place_of(args)
    lines = _lines(place, asked)
    if args.json:
        print_json(_object(asked, lines))
    elif args.csv:
        print(_csv(asked, lines), end="")
    elif not lines:
        print(_nothing(place, asked))
    else:
        print("\n".join(_table(asked, lines)))
    return 0


def dollars(amount: float | None) -> str:
    """An amount of $: cents, and what is left of a cent where there is no more."""
    if amount is None:
        return NONE
    return f"${amount:,.2f}" if amount >= 0.995 or amount == 0 else f"${amount:.4f}"


def _asked(args: argparse.Namespace, now: float) -> Asked:
    since, until = moment(args.since, now, UTC), moment(args.until, now, UTC)
    if since >= until:
        raise InvalidInput(
            f'--since "{args.since}" is not before --until "{args.until}"; '
            'say for example --since 7d, or --since 2026-11-01 --until "2026-12-01"'
        )
    return Asked(
        day_of(since), day_of(until - _JUST_BEFORE), _groups(args.by), args.key, args.model
    )


def _groups(text: str) -> tuple[By, ...]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in GROUPS:
            hint = did_you_mean(word, GROUPS)
            raise InvalidInput(f'--by "{word}": takes key, model and day, with commas{hint}')
    return tuple(group for group in GROUPS if group in words)


def _lines(place: Place, asked: Asked) -> list[Line]:
    try:
        with accounts_read(place.accounts) as connection:
            if asked.key is not None and asked.key != ANONYMOUS:
                names = {row.name for row in keys_in(connection, time.time(), revoked=True)}
                if asked.key not in names:
                    hint = did_you_mean(asked.key, names) or "; `vllm-console keys list` shows them"
                    raise NotFound(f'no key "{asked.key}"{hint}')
            return usage_in(connection, asked)
    except FileNotFoundError:
        return []


def _total(lines: Sequence[Line]) -> Use:
    total = Use()
    for line in lines:
        total.add(line.use)
    return total


def _object(asked: Asked, lines: Sequence[Line]) -> dict[str, Any]:
    return {
        "schema": "vllm-console/usage/1",
        "since": asked.since,
        "until": asked.until,
        "by": list(asked.by),
        "key": asked.key,
        "model": asked.model,
        "rows": [{**_whose(asked, line), **_numbers(line.use)} for line in lines],
        "total": _numbers(_total(lines)),
    }


def _whose(asked: Asked, line: Line) -> dict[str, Any]:
    told: dict[str, Any] = {group: getattr(line, group) for group in asked.by}
    if "key" in asked.by:
        told.update(key_id=line.key_id, revoked=line.revoked)
    return told


def _numbers(use: Use) -> dict[str, Any]:
    """Tokens are counts, GPU time hours, the cost $ or `None`."""
    return {
        **{name: getattr(use, name) for name in _NUMBERS},
        "gpu_hours": round(use.gpu_seconds / 3600, 6),
        "cost": None if use.cost is None else round(use.cost, 6),
    }


def _csv(asked: Asked, lines: Sequence[Line]) -> str:
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow([*asked.by, *_NUMBERS, "gpu_hours", "cost"])
    for line in lines:
        whose = [getattr(line, group) for group in asked.by]
        writer.writerow([*whose, *_numbers(line.use).values()])
    return made.getvalue()


def _table(asked: Asked, lines: Sequence[Line]) -> list[str]:
    from vllm_console.cli.answers import aligned

    heads = [*asked.by, *_NUMBERS, "GPU-hours", "$"]
    cells = [[head if head[:1].isupper() else head.upper() for head in heads]]
    for line in lines:
        whose = [_label(line, group) for group in asked.by]
        cells.append([*whose, *_shown(line.use)])
    if len(lines) > 1:
        blanks = [""] * (len(asked.by) - 1)
        cells.append(["total", *blanks, *_shown(_total(lines))])
    width = max(len(row[-1]) for row in cells)
    for row in cells:  # the last column is of numbers too
        row[-1] = row[-1].rjust(width)
    span = f"{asked.since} to {asked.until}, whole days (UTC)"
    return [span, "", *aligned(cells, left=len(asked.by))]


def _label(line: Line, group: By) -> str:
    label = getattr(line, group) or NONE
    return f"{label} (revoked)" if group == "key" and line.revoked else label


def _shown(use: Use) -> list[str]:
    hours = use.gpu_seconds / 3600
    shown = NONE if not hours else f"{hours:,.2f}" if hours >= 0.995 else f"{hours:.4f}"
    return [*(count(getattr(use, name)) for name in _NUMBERS), shown, dollars(use.cost)]


def _nothing(place: Place, asked: Asked) -> str:
    if not place.accounts.exists():
        return f"no usage: no gateway of {place.name} has counted anything yet"
    of = "".join(
        f" {word} {name}"
        for word, name in (("by the key", asked.key), ("of the model", asked.model))
        if name is not None
    )
    span = f"from {asked.since} to {asked.until} (UTC)"
    return f"no usage{of} {span}; --since TIME looks further back"
