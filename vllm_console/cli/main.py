"""`vllm-console`: finds the verb and runs it; a mistake is one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib import import_module
from typing import NoReturn

from vllm_console import __version__
from vllm_console.errors import ConsoleError


class ExitCode(IntEnum):
    """What a shell sees."""

    DONE = 0
    """It is done."""
    FAILED = 1
    """The thing asked about failed or is unhealthy."""
    USAGE = 2
    """Wrong usage or invalid configuration."""
    NO_DAEMON = 3
    """No daemon answers."""
    NOT_FOUND = 4
    """No such model or worker."""
    TIMED_OUT = 5
    """It did not happen in time."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""


VERBS = {
    "console": "open the console (what no verb at all does)",
    "web": "the console in a browser, read-only",
    "replay": "the console over a history file, also another machine's; nothing is changed",
    "demo": "a whole fleet with traffic, on the spot, without a GPU too",
    "up": "start the fleet's daemon and its models",
    "down": "stop the fleet: every worker, then the daemon",
    "status": "how the fleet is: a table, --json, --watch, --check",
    "gateway": "the endpoint of all models: where it is and how it does; restart it",
    "load": "start the workers of a model",
    "unload": "drain and stop the workers of a model",
    "restart": "stop and start the workers of a model",
    "scale": "give a model more workers, or fewer",
    "sleep": "take a model's weights off the GPU, its process ready to wake in seconds",
    "wake": "bring a sleeping model back",
    "pin": "mark a model as one that nothing may evict; `unpin` takes that back",
    "unpin": "let a model be evicted again",
    "plan": "what loading a model would take and wait for, before it is done",
    "apply": "bring the running fleet to what fleet.toml says now",
    "canary": "try a changed model with a share of its requests, beside what serves",
    "rollback": "serve an earlier revision of a model again",
    "logs": "what a worker wrote",
    "events": "what happened to the fleet",
    "metrics": "the fleet as Prometheus text; --dashboard and --rules for Grafana and alerts",
    "history": "any percentile, rate or gauge of any span; a model's revisions; export",
    "keys": "keys of the endpoint's clients: create, list, edit, revoke, usage",
    "usage": "what was used of which model, by whom, on which day, and what it cost",
    "validate": "check fleet.toml without starting anything",
    "config": "a model's effective configuration and where each value comes from",
    "engines": "install, list and remove engine environments",
    "doctor": "look at the machine and the fleet, and say what to mend",
    "discover": "list the vLLM servers of this machine, whoever started them",
    "reap": "list vLLM processes that nobody looks after, and end them on request",
    "systemd": "print a systemd unit that starts the fleet at boot",
    "completion": "completion for bash, zsh or fish",
}
"""Every verb and its one line; a verb's module is imported only when it is used."""


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, as every error of this program is."""

    _within = False
    """Whether `parse_known_intermixed_args`, which calls back, is at work."""

    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.USAGE, f"vllm-console: {message}; see `{self.prog} --help`\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, but options may stand between two optional words of one verb.

        argparse alone fills every optional word at the first of them, and refuses the rest.
        """
        words = [action.nargs for action in self._get_positional_actions()]
        if self._within or words.count("?") < 2:
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The command line; only `verb` is filled in (every verb when it is `None`)."""
    common = _Parser(add_help=False)
    _common(common, default=argparse.SUPPRESS, sets="sets_after_verb")
    parser = _Parser(
        prog="vllm-console",
        description="Run, watch and tune a fleet of vLLM models from one terminal. "
        "Without a verb: open the console, starting the daemon if none runs.",
        epilog="exit codes: 0 done, 1 failed or unhealthy, 2 usage or configuration, "
        "3 no daemon, 4 no such model or worker, 5 timed out",
    )
    parser.add_argument("--version", action="version", version=f"vllm-console {__version__}")
    _common(parser, default=None)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, summary in VERBS.items():
        sub = verbs.add_parser(name, help=summary, description=f"{summary}.", parents=[common])
        if verb is None or verb == name:
            import_module(f"vllm_console.cli.{name}").configure(sub)
            for nested in _nested(sub):
                _common(nested, default=argparse.SUPPRESS, sets="sets_after_verb")
    return parser


def _nested(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of a verb's own verbs."""
    of_verbs = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [nested for action in of_verbs for nested in action.choices.values()]


def _common(parser: argparse.ArgumentParser, default: object, sets: str = "set") -> None:
    group = parser.add_argument_group("fleet")
    group.add_argument(
        "--fleet",
        metavar="FILE",
        default=default,
        help="the fleet file (default: ./fleet.toml, then ~/.config/vllm-console/fleet.toml)",
    )
    group.add_argument(
        "--state-dir", metavar="DIR", default=default, help="where the fleet keeps its state"
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        dest=sets,
        default=default,
        help="override one value of the fleet file, e.g. models.X.options.max_num_seqs=64",
    )


_TAKE_A_VALUE = ("--fleet", "--state-dir", "--set", "--theme", "--refresh")
"""Options that may stand before the verb, or without one, and are followed by their value."""


def _verb_of(argv: Sequence[str]) -> str | None:
    """The verb on the command line, so that only its module is imported."""
    words = iter(argv)
    for word in words:
        if word in _TAKE_A_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the value is the exit code."""
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader that is gone can still be told apart
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return ExitCode.DONE
    except OSError as error:
        _drop_output()
        place = error.filename or "standard output"
        print(f"vllm-console: {place}: {error.strerror or error}", file=sys.stderr)
        return ExitCode.FAILED


def _drop_output() -> None:
    """What is left in the buffer goes nowhere: the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    verb = _verb_of(words)
    if verb is None and not {"-h", "--help", "--version"} & set(words):
        words.insert(0, "console")
        verb = "console"
    parser = build_parser(verb if verb in VERBS else "")
    if verb is not None and verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else "; see vllm-console --help"
        print(f'vllm-console: no verb "{verb}"{hint}', file=sys.stderr)
        return ExitCode.USAGE
    args = parser.parse_args(words)
    args.set = [*(args.set or ()), *getattr(args, "sets_after_verb", ())]
    try:
        return int(import_module(f"vllm_console.cli.{args.verb}").run(args))
    except ConsoleError as error:
        print(f"vllm-console: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
