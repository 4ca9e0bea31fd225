"""`vllm-console engines`: install, list and remove engine environments, show their options."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from types import FrameType

from vllm_console.engines.environment import (
    EngineEnvironment,
    check_name,
    engines_dir,
    environments,
    managed,
    resolve,
)
from vllm_console.engines.flags import cached_schema, flag_schema
from vllm_console.engines.install import Progress, disk_usage, install, remove
from vllm_console.errors import InvalidInput, NotFound

SUMMARY = "install, list and remove engine environments"

STAGES = {
    "waiting": "waiting",
    "python": "finding a Python",
    "resolving": "resolving",
    "downloading": "downloading",
    "installing": "installing",
    "compiling": "compiling bytecode",
    "verifying": "verifying",
    "installed": "installed",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    does = parser.add_subparsers(dest="does", metavar="WHAT", required=True, title="what to do")
    one = does.add_parser("install", help="make an environment: cpu, or a vLLM version (CUDA)")
    one.add_argument("name", metavar="NAME", help='"cpu", or a version such as 0.33.0')
    one = does.add_parser("list", help="the environments, and what `vllm` means now")
    one.add_argument("--json", action="store_true", help="as one JSON object")
    one = does.add_parser("remove", help="delete an environment")
    one.add_argument("name", metavar="NAME")
    one.add_argument("--yes", "-y", action="store_true", help="do not ask")
    one = does.add_parser("flags", help="the `vllm serve` options of an environment")
    one.add_argument("name", metavar="ENGINE", nargs="?", default="vllm", help="default: vllm")
    one.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Do it; the value is the exit code."""
    if args.does == "install":
        return _install(args.name)
    if args.does == "list":
        return _list(as_json=args.json)
    if args.does == "remove":
        return _remove(args.name, sure=args.yes)
    return _flags(args.name, as_json=args.json)


def _install(name: str) -> int:
    started = time.monotonic()
    before = {environment.name for environment in environments()}
    worked = []
    with _ends_as_interrupt(), _progress(name) as show:

        def on_progress(progress: Progress) -> None:
            worked.append(progress.stage)
            show(progress)

        try:
            made = install(name, on_progress=on_progress)
        except KeyboardInterrupt:
            print("vllm-console: interrupted; nothing was installed", file=sys.stderr)
            raise
    if name in before and "installed" not in worked:
        print(f"engine environment {made.name} is there: {_described(made)}")
        return 0
    seconds = time.monotonic() - started
    size = _size(disk_usage(made.program.parent.parent)[0])
    print(f"engine environment {made.name}: {_described(made)}, {size}, {seconds:.0f} s")
    return 0


def _list(*, as_json: bool) -> int:
    found = environments()
    sizes = {e.name: disk_usage(e.program.parent.parent)[0] for e in found}
    try:
        meant = resolve("vllm")
    except NotFound:
        meant = None
    if as_json:
        listed = [
            {
                "name": e.name,
                "version": e.version,
                "device": e.device,
                "size_bytes": sizes[e.name],
                "path": str(e.program.parent.parent),
            }
            for e in found
        ]
        vllm = meant and {
            "program": str(meant.program),
            "found": meant.found,
            "version": meant.version,
            "device": meant.device,
        }
        about = {"schema": "vllm-console/engines/1", "engines_dir": str(engines_dir())}
        print(json.dumps({**about, "environments": listed, "vllm": vllm}))
        return 0
    if found:
        rows = [("NAME", "VLLM", "DEVICE", "SIZE", "PATH")]
        rows += [
            (
                e.name,
                e.version or "?",
                e.device or "?",
                _size(sizes[e.name]),
                str(e.program.parent.parent),
            )
            for e in found
        ]
        _table(rows)
    else:
        print(f"no engine environments in {engines_dir()}")
    if meant is None:
        print("vllm means nothing yet; `vllm-console engines install cpu` makes an environment")
    else:
        print(f"vllm means {meant.found}: {_described(meant)}")
    return 0


def _remove(name: str, *, sure: bool) -> int:
    if managed(engines_dir(), check_name(name)) is None:
        sure = True  # nothing to ask about: `remove` says what is there instead
    if not sure:
        if not sys.stdin.isatty():
            raise InvalidInput(f"engines remove {name} asks first; without a terminal say --yes")
        print(f"remove the engine environment {name}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed", file=sys.stderr)
            return 1
    removed = remove(name)
    shared = (
        f"; {_size(removed.shared_bytes)} of it stays in uv's cache until `uv cache clean`"
        if removed.shared_bytes
        else ""
    )
    print(f"removed {removed.path}: {_size(removed.size_bytes)}{shared}")
    return 0


def _flags(name: str, *, as_json: bool) -> int:
    engine = resolve(name)
    if cached_schema(engine) is None:
        print(f"asking {engine.program} for its options (about 10 s, once)", file=sys.stderr)
    schema = flag_schema(engine)
    flags = sorted(schema.flags.values(), key=lambda flag: flag.name)
    if as_json:
        about = {"schema": "vllm-console/flags/1", "engine": name, "version": schema.version}
        print(json.dumps({**about, "flags": [asdict(flag) for flag in flags]}))
        return 0
    rows = [("OPTION", "TAKES", "DEFAULT")]
    for flag in flags:
        default = json.dumps(flag.default)
        takes = "|".join(flag.choices) if 0 < len("|".join(flag.choices)) <= 32 else flag.takes
        rows.append((flag.name, takes, default if len(default) <= 40 else f"{default[:39]}…"))
    _table(rows)
    return 0


def _described(environment: EngineEnvironment) -> str:
    return f"vLLM {environment.version or 'of unknown version'} at {environment.program}"


def _size(size_bytes: int) -> str:
    if size_bytes < 2**30:
        return f"{size_bytes / 2**20:.0f} MiB"
    return f"{size_bytes / 2**30:.1f} GiB"


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


@contextlib.contextmanager
def _ends_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the installation as Ctrl-C does: cleaned up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[Progress], None]]:
    """How progress is shown on stderr: one bar on a terminal, a line a stage elsewhere."""
    if not sys.stderr.isatty():
        stages: set[str] = set()

        def line(progress: Progress) -> None:
            if progress.stage not in stages and progress.stage != "installed":
                stages.add(progress.stage)
                about = f": {progress.detail}" if progress.detail else ""
                print(f"{name}: {STAGES[progress.stage]}{about}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    with Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[detail]}", table_column=Column(no_wrap=True, ratio=1)),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    ) as bar:
        task = bar.add_task(name, total=None, count="", detail="")

        def draw(progress: Progress) -> None:
            known = progress.done is not None and progress.total
            bar.update(
                task,
                description=f"{name}: {STAGES[progress.stage]}",
                completed=progress.done or 0,
                total=progress.total or None,
                count=f"{progress.done}/{progress.total}" if known else "",
                detail=escape(progress.detail),
            )

        yield draw
