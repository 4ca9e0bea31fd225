"""What verbs share: the fleet a command line means, its client, and waiting for a model."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable

from vllm_console.control.client import Client
from vllm_console.errors import ConsoleError, NotFound, TimedOut
from vllm_console.fleet.find import Place, locate
from vllm_console.snapshot import Model, Snapshot


def place_of(args: argparse.Namespace) -> Place:
    """The fleet that --fleet and --state-dir mean."""
    return locate(args.fleet, args.state_dir)


def client_of(args: argparse.Namespace) -> Client:
    """A client of that fleet's daemon; nothing is asked yet."""
    return Client(place_of(args).socket, program=args.verb)


def count_of(text: str) -> int:
    """A number of things on a command line: a whole number from 0 (an argparse type)."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text}: takes a whole number from 0")
    return int(text)


def seconds_of(text: str) -> float:
    """A time to wait on a command line, in seconds (an argparse type)."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text}: takes a number of seconds from 0")
    return seconds


def print_json(value: object) -> None:
    """One JSON value on stdout, indented for a person, on one line for a pipe."""
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(value, ensure_ascii=False, indent=indent))


def model_in(snapshot: Snapshot, name: str) -> Model:
    """The model of that name or alias; raises `NotFound`."""
    for model in snapshot.models:
        if name == model.name or name in model.aliases:
            return model
    raise NotFound(f'no model "{name}" in the fleet')


_NUMBER = re.compile(r" \d+ ?%")


class Progress:
    """Says on stderr how a model is getting on: one line that changes, or lines for a pipe."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._last = ""

    def show(self, text: str) -> None:
        """Show the newest state; in a pipe, what only counts on is said once."""
        kind = text if self._tty else _NUMBER.sub("", text)
        if kind == self._last:
            return
        self._last = kind
        if self._tty:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._tty and self._last:
            print(file=sys.stderr)
        self._last = ""


_NO_FREE_GPU = "no-free-gpu"
"""The cause that lasts until somebody makes room: not waited for, though the worker does."""


def wait_for_model(
    client: Client,
    name: str,
    done: Callable[[Model], bool],
    *,
    timeout: float,
    what: str,
) -> Model:
    """Follow a model until `done`; shows stages on stderr.

    Raises `ConsoleError` with cause and remedy when a worker of it fails, `TimedOut` after
    `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    progress = Progress()
    try:
        while True:
            model = model_in(client.snapshot(), name)
            if done(model):
                return model
            _raise_failure(model)
            if time.monotonic() > deadline:
                raise TimedOut(f"{model.name} is not {what} after {timeout:g} s: {model.state}")
            progress.show(describe(model))
            time.sleep(0.1)
    finally:
        progress.end()


def _raise_failure(model: Model) -> None:
    for worker in model.workers:
        failure = worker.failure
        waits = worker.state == "backoff" and failure and failure.cause == _NO_FREE_GPU
        if failure is not None and (waits or worker.state in ("failed", "crash-loop")):
            raise ConsoleError(
                f"{worker.id} {worker.state} ({failure.cause}): {failure.line}; {failure.remedy}"
            )


def describe(model: Model) -> str:
    """A model's state in one line: what its slowest worker is doing."""
    parts = [f"{model.name}: {model.state}"]
    for worker in model.workers:
        if worker.stage and worker.state == "starting":
            percent = f" {worker.progress:.0%}" if worker.progress is not None else ""
            parts.append(f"{worker.id} {worker.stage}{percent}")
        elif worker.reason:
            parts.append(f"{worker.id} {worker.reason}")
    return " · ".join(parts)
