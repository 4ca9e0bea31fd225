"""`history`: any metric of any span of a model, worker, GPU or the fleet, and its raw past."""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from importlib.resources import files
from typing import Any

from vllm_console.answer import Answer, Question
from vllm_console.cli.connect import client_of, place_of, print_json
from vllm_console.cli.recorded import from_file
from vllm_console.errors import InvalidInput, NoDaemon
from vllm_console.history.when import FORMS
from vllm_console.snapshot import to_json

SUMMARY = "any percentile, rate or gauge of any span; a model's revisions; export"
_DESCRIPTION = """\
What was measured, of any span, with gaps told. SUBJECT is a model, its alias, a worker, "fleet", a
GPU (index or UUID), or, as clients saw it, "gateway", "gateway/MODEL" or "gateway/KEY". Answers
without a daemon too, from the fleet's history file.

  vllm-console history qwen --metric ttft --since yesterday --until today
  vllm-console history qwen --metric ttft --quantiles 50,99.9 --since 24h --step 1h
  vllm-console history qwen --metric slo --metric availability --since 7d --step 1d
  vllm-console history fleet --metric generation_tokens --since 24h --by model --compare previous
  vllm-console history gpu/0 --since "2026-11-20 14:00" --until "2026-11-20 15:00" --csv
  vllm-console history gateway/qwen --metric ttft --since 24h
  vllm-console history gateway --metric requests --since 7d --by key
  vllm-console history --list                 the metrics there are, with unit and meaning
  vllm-console history revisions MODEL        its revisions, and what changed
  vllm-console history export FILE --format parquet --since 30d     "-" for FILE is stdout
"""
_OF_QUESTIONS = ("metric", "quantiles", "by", "compare", "csv")
_OF_EXPORT = ("format", "subject")
_FORMATS = ("csv", "parquet", "openmetrics")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `history`."""
    parser.description = _DESCRIPTION
    parser.epilog = f"A time is {FORMS}; times without an offset are local."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "what", nargs="?", metavar="SUBJECT", help='whose past; or "revisions", or "export"'
    )
    parser.add_argument("name", nargs="?", metavar="MODEL|FILE", help="of revisions and export")
    add = parser.add_argument
    add("--metric", "-m", action="append", metavar="NAME", help="what to tell; may repeat")
    add("--quantiles", "-q", metavar="LIST", help="percentiles of latencies (default 50,95,99)")
    add("--since", metavar="TIME", help="where the span begins (default: 1h ago)")
    add("--until", metavar="TIME", help="where it ends (default: now)")
    add("--step", metavar="TIME", help='also tell each step of this length, such as "5m"')
    add("--by", metavar="WHAT", help="also tell each worker, revision, model or key")
    add("--compare", metavar="previous", help="also tell the span of the same length before")
    add("--list", action="store_true", help="list the metrics there are")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="as one JSON object")
    shape.add_argument("--csv", action="store_true", help="as CSV, one value a line")
    shape.add_argument("--schema", action="store_true", help="the JSON Schema of --json")
    group = parser.add_argument_group("export")
    group.add_argument("--format", metavar="KIND", help=f"{', '.join(_FORMATS)} (default csv)")
    group.add_argument(
        "--subject", action="append", metavar="NAME", help="only of this one; may repeat"
    )


def run(args: argparse.Namespace) -> int:
    """Print what is asked for."""
    if args.list:
        _print_metrics(args.json)
    elif args.schema:
        print(files("vllm_console.control").joinpath("history.schema.json").read_text("utf-8"))
    elif args.what == "revisions":
        _only(args, "revisions", ("since", "until", "step", *_OF_QUESTIONS, *_OF_EXPORT))
        from vllm_console.cli.revisions import show_revisions

        show_revisions(args, _named(args, "history revisions MODEL"))
    elif args.what == "export":
        _only(args, "export", ("json", *_OF_QUESTIONS))
        from vllm_console.cli.export import export

        export(args, _named(args, "history export FILE"), args.format or "csv")
    else:
        _only(args, "a question", _OF_EXPORT)
        _answer(args)
    return 0


def _answer(args: argparse.Namespace) -> None:
    from vllm_console.cli.answers import rows, table
    from vllm_console.history.asking import SINCE, question

    if args.what is None:
        raise InvalidInput("history of whom? Name a model, a worker, a GPU or fleet; see --help")
    if args.name is not None:
        raise InvalidInput(f"history {args.what} {args.name}: takes one subject; see --help")
    asked = question(
        args.what,
        metrics=[name for names in args.metric or () for name in names.split(",")],
        quantiles=args.quantiles or "50,95,99",
        since=args.since or SINCE,
        until=args.until or "now",
        step=args.step,
        by=args.by,
        compare=args.compare,
        now=time.time(),
    )
    try:
        answer = client_of(args).ask(asked)
    except NoDaemon as error:
        answer = from_file(place_of(args), error, lambda connection: _ask(args, asked, connection))
    if args.json:
        print_json(to_json(answer))
    else:
        lines = rows(answer) if args.csv else table(answer, dim=sys.stdout.isatty())
        print("\n".join(lines))


def _ask(args: argparse.Namespace, asked: Question, connection: sqlite3.Connection) -> Answer:
    """The answer of the file alone, with what the fleet file knows of the models."""
    from vllm_console.fleet.load import load_fleet
    from vllm_console.history.questions import answer
    from vllm_console.history.store import reader
    from vllm_console.history.subjects import known

    fleet = load_fleet(place_of(args).fleet_file, sets=args.set)
    return answer(reader(connection), asked, known(fleet.models.values()), time.time())


def _print_metrics(as_json: bool) -> None:
    from vllm_console.cli.answers import aligned
    from vllm_console.history.askable import ASKABLE

    listed = [
        {"name": row.name, "form": row.form.value, "unit": row.unit, "meaning": row.meaning}
        for row in ASKABLE.values()
    ]
    if as_json:
        print_json({"schema": "vllm-console/metrics/1", "metrics": listed})
        return
    keys = ("name", "form", "unit", "meaning")
    cells = [[key.upper() for key in keys], *([row[key] for key in keys] for row in listed)]
    print("\n".join(aligned(cells, left=len(keys))))


def _named(args: argparse.Namespace, usage: str) -> str:
    if args.name is None:
        raise InvalidInput(f"`vllm-console {usage}`: {usage.split()[-1]} is missing")
    return str(args.name)


def _only(args: argparse.Namespace, what: str, others: tuple[str, ...]) -> None:
    """Refuse options that would say nothing there."""
    for option in others:
        value: Any = getattr(args, option)
        if value:
            raise InvalidInput(f"--{option}: is not of {what}; see `vllm-console history --help`")
