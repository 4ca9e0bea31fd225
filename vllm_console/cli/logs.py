"""`logs`: what a worker wrote."""

from __future__ import annotations

import argparse
import sys
import time

from vllm_console.cli.connect import count_of, place_of
from vllm_console.control.client import Client, LogChunk
from vllm_console.errors import NoDaemon, NotFound
from vllm_console.fleet.find import Place

SUMMARY = "what a worker wrote"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `logs`."""
    parser.add_argument("worker", metavar="WORKER", help="a worker's id, or a model's name")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as the log grows")
    parser.add_argument(
        "-n", "--lines", type=count_of, default=200, metavar="N", help="last lines (default 200)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the end of a worker's log, then follow it when asked to.

    Without a daemon the log is read from the state directory.
    """
    place = place_of(args)
    read = _Reader(place, args.worker)
    chunk = read(None, args.lines)
    while True:
        sys.stdout.write(chunk.text)
        sys.stdout.flush()
        if not args.follow:
            return 0
        if not chunk.text:
            time.sleep(0.2)
        chunk = read(chunk.offset, 0)


class _Reader:
    """Reads a worker's log through the daemon, or from its file when there is none."""

    def __init__(self, place: Place, worker: str) -> None:
        self._place = place
        self._worker = worker
        self._client = Client(place.socket)

    def __call__(self, offset: int | None, lines: int) -> LogChunk:
        try:
            return self._client.log(self._worker, offset, lines)
        except NoDaemon:
            return self._from_file(offset, lines)

    def _from_file(self, offset: int | None, lines: int) -> LogChunk:
        from vllm_console.launchers.local import LocalLauncher
        from vllm_console.workers.passage import passage

        launcher = LocalLauncher(self._place.workers)
        for worker_id in (self._worker, f"{self._worker}-1"):
            path = launcher.log_path(worker_id)
            if path.is_file():
                return LogChunk(*passage(path, offset=offset, lines=lines))
        known = sorted(d.name for d in self._place.workers.glob("*") if d.is_dir())
        there = f"there are logs of {', '.join(known)}" if known else "there are no logs yet"
        raise NotFound(f'no worker "{self._worker}" in {self._place.workers}; {there}')
