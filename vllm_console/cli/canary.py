"""`canary`: try a changed model with a share of its requests, and see how it does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import datetime

from vllm_console.answer import Answer, Question
from vllm_console.cli.connect import client_of, model_in, print_json, wait_for_model
from vllm_console.cli.load import waiting_options
from vllm_console.control.client import Client
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.duration import format_duration
from vllm_console.snapshot import Canary, Model, to_json
from vllm_console.ui.format import NONE

SUMMARY = "try a changed model with a share of its requests, beside what serves"
SCHEMA = "vllm-console/canary/1"
_METRICS = {"requests": "count", "ttft": "p95", "itl": "p95", "errors": "count"}
"""What is compared, and which of its values."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `canary`."""
    parser.description = (
        "Start one worker of what fleet.toml says of a model beside those that serve, and give it "
        "a share of the requests; with another share, move it; with neither, compare the two. "
        "`vllm-console apply` takes the new revision, the canary first; --end stops it, and the "
        "former revision has every request again (change fleet.toml back too, or the next apply "
        "takes it up). A canary that fails is ended by itself."
    )
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")
    parser.add_argument(
        "share", metavar="SHARE", nargs="?", type=share_of, help="of the requests, such as 10%%"
    )
    parser.add_argument("--end", action="store_true", help="end it: drained and stopped")
    parser.add_argument("--json", action="store_true", help="the comparison as one JSON object")
    waiting_options(parser, 1800.0)


def share_of(text: str) -> float:
    """A share on a command line: "10%", as 0..1 (an argparse type)."""
    number = text.removesuffix("%").strip()
    try:
        percent = float(number) if text.endswith("%") else -1.0
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise argparse.ArgumentTypeError(f"{text}: takes a share from 0% to 100%, such as 10%")
    return percent / 100


def run(args: argparse.Namespace) -> int:
    """Begin, move, end or show a canary."""
    client = client_of(args)
    if args.json and (args.end or args.share is not None):
        raise InvalidInput("canary: --json is of the comparison, without a share and --end")
    if args.end:
        if args.share is not None:
            raise InvalidInput("canary: takes a share or --end, not both")
        _end(client, args)
    elif args.share is not None:
        _give(client, args)
    else:
        _show(client, args)
    return 0


def _give(client: Client, args: argparse.Namespace) -> None:
    newest = client.events(limit=1)
    answer = client.command("canary", model=args.model, share=args.share)
    name, revision = answer["model"], answer["revision"]
    has = f"revision {revision} has {_percent(args.share)} of the requests"
    if args.no_wait:
        print(f"{name}: {has} once it is ready")
        return

    def over(model: Model) -> bool:
        canary = model.canary
        if canary is None or canary.revision != revision:
            return True
        return any(w.id == canary.worker and w.state == "ready" for w in model.workers)

    model = wait_for_model(client, args.model, over, timeout=args.timeout, what=f"at {revision}")
    if model.canary is None or model.canary.revision != revision:
        raise ConsoleError(_why_gone(client, model.name, newest[-1].seq if newest else 0))
    print(f"{name}: {has}, revision {answer['base']} the rest")


def _why_gone(client: Client, name: str, after: int) -> str:
    """What the events say of a canary that is no longer there."""
    told = [event.text for event in client.events(after=after) if event.subject == name]
    return next((f"{name}: {text}" for text in reversed(told)), f"{name} has no canary any more")


def _end(client: Client, args: argparse.Namespace) -> None:
    answer = client.command("canary", model=args.model, end=True)
    worker = answer["workers"][0]
    ends = f"{answer['model']}: revision {answer['base']} has all requests"
    if not args.no_wait:
        wait_for_model(
            client,
            args.model,
            lambda model: all(each.id != worker for each in model.workers),
            timeout=args.timeout,
            what="without its canary",
        )
    print(ends)


def _show(client: Client, args: argparse.Namespace) -> None:
    from vllm_console.cli.answers import aligned

    model = model_in(client.snapshot(), args.model)
    canary = model.canary
    if canary is None:
        raise ConsoleError(
            f"{model.name} has no canary; `vllm-console canary {model.name} 10%` tries what "
            "fleet.toml says of it"
        )
    now = time.time()
    since = min(datetime.fromisoformat(canary.since).timestamp(), now - 1.0)
    answer = client.ask(
        Question(f"model/{model.name}", tuple(_METRICS), since, now, quantiles=(95.0,), by="worker")
    )
    if args.json:
        told = {"model": model.name, "base": model.revision, "canary": to_json(canary)}
        print_json({"schema": SCHEMA, **told, "history": to_json(answer)})
        return
    served = any(w.id == canary.worker and w.state == "ready" for w in model.workers)
    age = format_duration(round(now - since))
    head = ("", "revision", "share", "state", "requests", "TTFT p95", "ITL p95", "errors")
    lines = [head, *_rows(model, canary, answer)]
    print(
        f"{model.name}: revision {canary.revision} beside revision {model.revision}, "
        f"{'for' if served else 'begun'} {age}{'' if served else ' ago'}"
    )
    print("\n".join(aligned(lines)))


def _rows(model: Model, canary: Canary, answer: Answer) -> Iterator[tuple[str, ...]]:
    """A row a worker, those of the former revision first; the first of them has their share."""
    from vllm_console.cli.answers import told

    measured = {(each.metric, each.part): each for each in answer.measured}
    own = [worker for worker in model.workers if worker.id != canary.worker]
    tried = [worker for worker in model.workers if worker.id == canary.worker]
    for workers, revision, share in (
        (own, model.revision, 1.0 - canary.share),
        (tried, canary.revision, canary.share),
    ):
        for worker in workers:
            known = [(measured.get((metric, worker.id)), key) for metric, key in _METRICS.items()]
            yield (
                worker.id,
                f"{revision}{'' if worker in own else ' canary'}",
                _percent(share) if worker is workers[0] else "",
                worker.state,
                *(NONE if each is None else told(each, key) for each, key in known),
                "",
            )


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
