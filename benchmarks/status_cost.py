"""What `vllm-console status --json` costs: wall time beside an empty Python, modules it imports.

python benchmarks/status_cost.py [-n 21]
"""

from __future__ import annotations

import json
import subprocess
import sys

from common import fleet, median, parser, table, wall

HEAVY = ("textual", "rich", "sqlmodel", "pydantic", "httpx", "asyncio", "uvicorn")
"""Modules whose absence is worth telling."""


def imported(words: list[str]) -> list[str]:
    """The modules `status --json` has loaded when it ends."""
    code = (
        "import sys, json, io, contextlib\n"
        "from vllm_console.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(sys.argv[1:])\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return list(json.loads(done.stdout))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("-n", type=int, default=21, help="runs of each, alternating")
    options.add_argument("--ready", action="store_true", help="measure with every model ready")
    args = options.parse_args()
    with fleet(args.fleet, None if args.ready else ()) as (running, _):
        ours, empty = running.words("status", "--json"), [sys.executable, "-c", "pass"]
        wall(ours), wall(empty)
        times = [(wall(ours), wall(empty)) for _ in range(args.n)]
        modules = imported(running.words("status", "--json")[1:])
    mine, floor = [t[0] for t in times], [t[1] for t in times]
    table(
        [
            ["vllm-console status --json", 1e3 * median(mine), 1e3 * min(mine), 1e3 * max(mine)],
            ["python3 -c pass", 1e3 * median(floor), 1e3 * min(floor), 1e3 * max(floor)],
        ],
        ["command", "median ms", "min", "max"],
    )
    print(f"ratio of medians {median(mine) / median(floor):.2f} over {args.n} alternating runs")
    heavy = [name for name in HEAVY if name in modules]
    print(f"{len(modules)} modules; heavy ones: {', '.join(heavy) or 'none'}")


if __name__ == "__main__":
    main()
