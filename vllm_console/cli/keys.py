"""`keys`: make, list, change and revoke the keys that clients of the endpoint use."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from contextlib import closing
from datetime import UTC
from typing import Any

from vllm_console.cli import usage
from vllm_console.cli.connect import client_of, place_of, print_json
from vllm_console.errors import ConsoleError, InvalidInput, NoDaemon
from vllm_console.fleet.duration import parse_duration
from vllm_console.fleet.find import Place
from vllm_console.fleet.key_names import KEY_NAME_FORM, is_key_name
from vllm_console.fleet.problems import did_you_mean
from vllm_console.history.account_rows import (
    CLASSES,
    SHOWN,
    TERMS,
    KeyRow,
    hash_of,
    keys_in,
    made_secret,
)
from vllm_console.history.accounts import Accounts, accounts_read
from vllm_console.history.when import iso, moment
from vllm_console.ui.format import NONE, age

SUMMARY = "keys of the endpoint's clients: create, list, edit, revoke, usage"
_DESCRIPTION = """\
The keys that clients of the endpoint send. Only the hash of a key is kept; a change holds within
a second, for a gateway that runs without a daemon too.

  vllm-console keys create ada --models qwen,llama --max-class high --rpm 60 --tpm 100000
  vllm-console keys create nightly --concurrency 4 --budget '$50/month' --expires 30d
  vllm-console keys edit ada --rpm none
  vllm-console keys usage --since 30d
"""
_NO_LIMIT = "none"
_ALL = "all"
_BUDGET = re.compile(r"\$?(\d+(?:\.\d+)?)\$?(?:/month)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}.*")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `keys`."""
    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    does = parser.add_subparsers(dest="does", metavar="WHAT", required=True, title="what to do")
    one = does.add_parser("create", help="make a key; its secret is printed, this once")
    one.add_argument("name", metavar="NAME", help="who it is for; no other key has it")
    _terms(one)
    one.add_argument("-q", "--quiet", action="store_true", help="print the secret and nothing else")
    one = does.add_parser("list", help="the keys, what they may do and what they spent")
    one.add_argument("--all", action="store_true", help="those that were revoked too")
    one.add_argument("--json", action="store_true", help="as one JSON object")
    one = does.add_parser("edit", help="change what a key may do")
    one.add_argument("name", metavar="NAME")
    _terms(one)
    one = does.add_parser("revoke", help="end a key, at once and for good")
    one.add_argument("name", metavar="NAME")
    one = does.add_parser("usage", help="what each key used: `vllm-console usage --by key`")
    usage.usage_options(one)


def _terms(parser: argparse.ArgumentParser) -> None:
    def add(option: str, kind: Any, metavar: str, text: str) -> None:
        parser.add_argument(
            option, type=kind, metavar=metavar, help=text, default=argparse.SUPPRESS
        )

    add("--models", models_of, "LIST", f"the models it may use, with commas; {_ALL}: every one")
    add("--max-class", class_of, "CLASS", "the most urgent it may ask for: high, normal or low")
    add("--rpm", limit_of, "N", f"requests a minute; {_NO_LIMIT}: no limit, here and below")
    add("--tpm", limit_of, "N", "tokens a minute, of prompts and answers together")
    add("--concurrency", limit_of, "N", "requests at a time")
    add("--budget", budget_of, "AMOUNT", 'what it may cost a month (UTC), such as "$50/month"')
    add("--expires", expires_of, "TIME", 'until when it holds: "30d" from now, or "2027-01-01"')


def run(args: argparse.Namespace) -> int:
    """Do it; a secret is the only thing that `create` writes to stdout."""
    if args.does == "usage":
        return usage.run(args)
    if args.does == "list":
        _list(args)
    elif args.does == "create":
        _create(args)
    elif args.does == "edit":
        _edit(args)
    else:
        _change(args, "key-revoke", name=args.name)
        print(f"key {args.name}: revoked; whoever sends it is refused from now on")
    return 0


def _create(args: argparse.Namespace) -> None:
    if not is_key_name(args.name):
        raise InvalidInput(f'"{args.name}" cannot be the name of a key: take {KEY_NAME_FORM}')
    terms = _given(args)
    secret = made_secret()
    hashed = hash_of(secret.encode()).hex()
    _change(args, "key-create", name=args.name, hash=hashed, shown=secret[:SHOWN], **terms)
    if not args.quiet:
        print(
            f"key {args.name}: this is its secret, shown this once (only a hash of it is kept); "
            "clients send it as `Authorization: Bearer …`",
            file=sys.stderr,
        )
    print(secret)


def _edit(args: argparse.Namespace) -> None:
    terms = _given(args)
    if not terms:
        raise InvalidInput(
            f"keys edit {args.name}: says nothing to change; name a limit, such as --rpm 60"
        )
    _change(args, "key-edit", name=args.name, **terms)
    print(f"key {args.name}: changed")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The terms on the command line; what is odd about them is said, and no reason to refuse."""
    terms = {name: getattr(args, name) for name in TERMS if hasattr(args, name)}
    if terms.get("models") is None and terms.get("budget") is None:
        return terms
    from vllm_console.fleet.load import load_fleet

    try:
        fleet = load_fleet(place_of(args).fleet_file, sets=args.set)
    except ConsoleError as error:
        print(f"the fleet file cannot be compared with: {error}", file=sys.stderr)
        return terms
    if terms.get("models") is not None:
        names = {alias: name for name, m in fleet.models.items() for alias in (name, *m.aliases)}
        for model in terms["models"]:
            if model not in names:
                hint = did_you_mean(model, names)
                so = f"{hint} The" if hint else "; the"
                print(
                    f'no model "{model}" in the fleet{so} key may use it once there is one',
                    file=sys.stderr,
                )
        terms["models"] = list(dict.fromkeys(names.get(m, m) for m in terms["models"]))
    if terms.get("budget") is not None and not fleet.gpu_hour_cost:
        print(
            "nothing counts against the budget until [fleet] gpu_hour_cost says what a GPU costs",
            file=sys.stderr,
        )
    return terms


def _change(args: argparse.Namespace, verb: str, **asked: Any) -> None:
    """Have the daemon do it or, while none runs, do it here; either way it is in the audit."""
    try:
        client_of(args).command(verb, **asked)
    except NoDaemon:
        _change_here(place_of(args), verb, asked)


def _change_here(place: Place, verb: str, asked: dict[str, Any]) -> None:
    from vllm_console import __version__
    from vllm_console.control.audit import AuditLog
    from vllm_console.control.client_keys import COMMANDS
    from vllm_console.control.peer import Asker
    from vllm_console.history.database import Database

    place.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    asker = Asker(f"vllm-console/{__version__} keys", os.getuid(), os.getpid())
    with closing(Database(place.history)) as database:
        audit = AuditLog(database)
        database.start()
        with closing(Accounts(place.accounts)) as accounts, audit.record(asker, verb, asked):
            COMMANDS[verb](accounts, asked, time.time())


def _list(args: argparse.Namespace) -> None:
    place, now = place_of(args), time.time()
    try:
        with accounts_read(place.accounts) as connection:
            rows = keys_in(connection, now, revoked=args.all)
    except FileNotFoundError:
        rows = []
    if args.json:
        listed = [_object(row) for row in rows]
        print_json({"schema": "vllm-console/keys/1", "fleet": place.name, "keys": listed})
    elif not rows:
        print(f"{place.name} has no keys; `vllm-console keys create NAME` makes one")
    else:
        print("\n".join(_table(rows, now)))


def _object(row: KeyRow) -> dict[str, Any]:
    terms = row.terms
    return {
        "name": row.name,
        "id": row.id,
        "shown": row.shown or None,
        "origin": row.origin,
        "models": None if terms.models is None else list(terms.models),
        "max_class": CLASSES[terms.max_class],
        "rpm": terms.rpm,
        "tpm": terms.tpm,
        "concurrency": terms.concurrency,
        "budget": terms.budget,
        "spent": round(row.spent, 6),
        "created": iso(row.created),
        "expires": _time(terms.expires),
        "revoked": _time(row.revoked),
        "last_used": _time(row.last_used),
    }


def _time(at: float | None) -> str | None:
    return None if at is None else iso(at)


def _table(rows: list[KeyRow], now: float) -> list[str]:
    from vllm_console.cli.answers import aligned

    heads = ("name", "key", "class", "rpm", "tpm", "concurrency", "budget", "this month",
             "last used", "expires", "models")  # fmt: skip
    cells = [[head.upper() for head in heads]]
    for row in rows:
        terms = row.terms
        limits = (terms.rpm, terms.tpm, terms.concurrency)
        cells.append(
            [
                row.name,
                f"{row.shown}…" if row.shown else row.origin,
                CLASSES[terms.max_class],
                *(NONE if limit is None else f"{limit:,}" for limit in limits),
                usage.dollars(terms.budget),
                usage.dollars(row.spent or None),
                "never" if row.last_used is None else f"{age(max(0.0, now - row.last_used))} ago",
                _expires(row, now),
                _ALL if terms.models is None else ", ".join(terms.models),
            ]
        )
    return aligned(cells, left=3)


def _expires(row: KeyRow, now: float) -> str:
    if row.revoked is not None:
        return f"revoked {iso(row.revoked)[:10]}"
    if row.terms.expires is None:
        return "never"
    at = iso(row.terms.expires)[:16].replace("T", " ")
    return at if now < row.terms.expires else f"expired {at}"


def models_of(text: str) -> tuple[str, ...] | None:
    """Names of models with commas between them; "all" is every model (an argparse type)."""
    if text == _ALL:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError(f'names no model; write names with commas, or "{_ALL}"')
    return names


def class_of(text: str) -> int:
    """The number of a priority class (an argparse type)."""
    if text not in CLASSES:
        raise argparse.ArgumentTypeError(
            f"{text}: is one of {', '.join(CLASSES)}{did_you_mean(text, CLASSES)}"
        )
    return CLASSES.index(text)


def limit_of(text: str) -> int | None:
    """A whole number from 1; "none" is no limit (an argparse type)."""
    if text == _NO_LIMIT:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**53:
        raise argparse.ArgumentTypeError(f'{text}: takes a whole number from 1, or "{_NO_LIMIT}"')
    return int(text)


def budget_of(text: str) -> float | None:
    """$ a month, such as "$50/month" or "50"; "none" is no limit (an argparse type)."""
    if text == _NO_LIMIT:
        return None
    found = _BUDGET.fullmatch(text.replace(" ", ""))
    if found is None or not float(found[1]) > 0:
        raise argparse.ArgumentTypeError(
            f'{text}: takes an amount of $ a month, such as "$50/month", or "{_NO_LIMIT}"'
        )
    return float(found[1])


def expires_of(text: str) -> int | None:
    """Seconds since the epoch of "30d" from now or of a time, in UTC (an argparse type)."""
    if text == _NO_LIMIT:
        return None
    now = time.time()
    try:
        at = moment(text, now, UTC) if _DAY.fullmatch(text) else now + parse_duration(text)
        if not at < 253_402_300_800:  # the year 10000
            raise ValueError
    except (ValueError, OverflowError, InvalidInput):
        raise argparse.ArgumentTypeError(
            f'{text}: takes a time from now such as "30d", a day such as "2027-01-01", or '
            f'"{_NO_LIMIT}"'
        ) from None
    if at <= now:
        raise argparse.ArgumentTypeError(f"{text}: is over already; take a time to come")
    return int(at)
