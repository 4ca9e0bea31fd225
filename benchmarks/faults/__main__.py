"""Puts faults into running fleets and prints what became of them.

    python -m benchmarks.faults [--fake-only | --real-only] [--only TEXT] [--scale 0.1]

Exit code 1 when one injection of one row was not survived.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.faults import files, kills, seen, sequences, starts
from benchmarks.faults.table import NotMet, Outcome, Row, Scale, show, survived
from vllm_console.errors import ConsoleError

FAKE: dict[str, Row] = {**kills.ROWS, **starts.ROWS, **files.ROWS, **seen.ROWS, **sequences.ROWS}
"""Rows on fake trees by their names."""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    options.description = (__doc__ or "").partition("\n")[0]
    which = options.add_mutually_exclusive_group()
    which.add_argument("--fake-only", action="store_true", help="no real vLLM")
    which.add_argument("--real-only", action="store_true", help="nothing but real vLLM")
    options.add_argument("--only", metavar="TEXT", default="", help="rows whose name has it")
    options.add_argument("--scale", type=float, default=1.0, help="of the injections (default 1)")
    options.add_argument("--seed", type=int, default=int(time.time()), help="of the random rows")
    given = options.parse_args()
    Scale.factor, Scale.seed = given.scale, given.seed
    chosen = [
        (engine, name, row)
        for engine, rows in _rows(given.fake_only, given.real_only).items()
        for name, row in rows.items()
        if given.only in name
    ]
    if not chosen:
        options.error(f"no row has {given.only!r} in its name")
    outcomes = []
    for engine, name, row in chosen:
        began = time.monotonic()
        print(f"{name} ({engine}) …", end=" ", file=sys.stderr, flush=True)
        outcome = _run(engine, name, row)
        verdict = "survived" if survived(outcome) else "NOT SURVIVED"
        print(f"{verdict}, {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        outcomes.append(outcome)
    show(outcomes)
    return 0 if all(survived(outcome) for outcome in outcomes) else 1


def _rows(fake_only: bool, real_only: bool) -> Mapping[str, Mapping[str, Row]]:
    rows: dict[str, Mapping[str, Row]] = {} if real_only else {"fake": FAKE}
    if not fake_only:
        from benchmarks.faults import real

        rows["vLLM"] = real.ROWS
    return rows


def _run(engine: str, name: str, row: Row) -> Outcome:
    """One row in a directory of its own; a row that breaks off is one that was not survived."""
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        return row(directory)
    except Exception as error:
        if not isinstance(error, (ConsoleError, NotMet)):
            import traceback

            traceback.print_exc()
        return Outcome(name, engine, 1, 0, note=f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
