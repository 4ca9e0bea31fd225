"""python -m benchmarks.history [--part …] [--prometheus PATH]: every figure of the stored past."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.history.costs import costs
from benchmarks.history.faults import kills, regression
from benchmarks.history.prometheus import beside
from benchmarks.history.sizes import sizes_and_questions

PARTS = ("sizes", "cost", "prometheus", "kills", "regression")


def main() -> None:
    """Prints the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--distinct", type=int, default=4, help="workers that are simulated")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a measurement")
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--prometheus", type=Path, help="the program, with promtool beside it")
    args = parser.parse_args()
    for part in args.part.split(","):
        if part == "sizes":
            sizes_and_questions(args.workers, args.distinct)
        elif part == "cost":
            costs(args.targets, args.seconds, args.prometheus)
        elif part == "prometheus":
            beside(args.prometheus, args.distinct)
        elif part == "kills":
            kills(args.kills)
        elif part == "regression":
            regression()
        else:
            parser.error(f"no part {part}; there are {', '.join(PARTS)}")
        print()


if __name__ == "__main__":
    main()
