"""Everything the gateway promises, once, on real vLLM: a daemon, two tiny models, official clients.

    python -m benchmarks.gateway.real [--only TEXT]

Exit code 1 when one promise is not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.common import table
from benchmarks.faults.site import Site
from benchmarks.faults.table import NotMet
from benchmarks.gateway.endpoint import MODEL, Served, fleet_file
from benchmarks.gateway.processes import free_ports
from benchmarks.gateway.promises import INTERFACES, LIVING
from vllm_console.errors import ConsoleError

READY_S = 120.0


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gateway.real")
    options.description = (__doc__ or "").partition("\n")[0]
    options.add_argument("--only", metavar="TEXT", default="", help="promises whose name has it")
    options.add_argument("--engine", default="cpu", help="an engine environment")
    given = options.parse_args()
    chosen = {n: p for n, p in {**INTERFACES, **LIVING}.items() if given.only in n}
    rows: list[list[object]] = []
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="vllm-console-real-") as root:
        file = fleet_file(given.engine, port)
        with Site(Path(root), file, ready_s=READY_S) as site:
            site.up()
            site.ready(f"{MODEL}-1")
            served = Served(site, port)
            for name, promise in chosen.items():
                began = time.monotonic()
                print(f"{name} …", file=sys.stderr, flush=True)
                try:
                    kept, note = True, promise(served)
                except (NotMet, ConsoleError) as error:
                    kept, note = False, str(error)
                except Exception as error:
                    traceback.print_exc()
                    kept, note = False, repr(error)
                served.hang_up()
                rows.append([name, "kept" if kept else "BROKEN", time.monotonic() - began, note])
    table(rows, ["promise", "", "s", ""])
    return 0 if all(row[1] == "kept" for row in rows) else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
