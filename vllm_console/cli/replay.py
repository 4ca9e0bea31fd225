"""`replay`: the console over the history file of another day or another machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_console.cli.connect import place_of

SUMMARY = "the console over a history file, also another machine's; nothing is changed"
_DESCRIPTION = """\
Open a history.sqlite in the console: its last moment first, any other by [ and ] or t. No daemon
is needed, the file is only read, and no command is taken.

  vllm-console replay history.sqlite
  vllm-console replay history.sqlite --at "2026-11-20 14:00"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `replay`."""
    from vllm_console.cli.console import add_looks

    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", metavar="FILE", type=Path, help="a history.sqlite, or its folder")
    parser.add_argument("--at", metavar="TIME", help='where to begin, such as "2h" before its end')
    add_looks(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the recording until the user quits."""
    from vllm_console.cli.console import needs_terminal
    from vllm_console.control.recording import Recording

    needs_terminal("`vllm-console history` answers from a fleet's file in print")
    recording = Recording(args.file)
    try:
        if args.at is not None:
            recording.snapshot_at(recording.moment(args.at))  # a wrong time is told here
        from vllm_console.fleet.find import panels_dir
        from vllm_console.ui.app import run_console

        return run_console(
            recording.client,
            panels=panels_dir(place_of(args)) if args.fleet else None,
            theme=args.theme,
            ascii_only=args.ascii,
            recorded=recording.path.name,
            begin=args.at,
        )
    finally:
        recording.close()
