"""What killing the daemon costs its fleet: worker pids, failed requests, seconds to adopt.

    python benchmarks/daemon_restart.py [-n 3] [--rate 4]

Requests flow the whole time. Each round kills the daemon with SIGKILL, leaves the fleet without
one for a moment, starts the next daemon and waits until it calls every worker ready.
"""

from __future__ import annotations

import os
import signal
import time

from common import fleet, median, parser, table, workers_of

from vllm_console.traffic.generate import Target
from vllm_console.traffic.process import TrafficProcess


def main() -> None:
    options = parser(__doc__)
    options.add_argument("-n", type=int, default=3, help="kills")
    options.add_argument("--rate", type=float, default=4.0, help="requests a second")
    options.add_argument("--away", type=float, default=2.0, help="seconds without a daemon")
    args = options.parse_args()
    adopted: list[float] = []
    with fleet(args.fleet) as (running, status):
        names = [m["name"] for m in status["models"] if m["workers"]]
        pids = {w["id"]: w["pid"] for w in workers_of(status)}
        traffic = TrafficProcess(rate=args.rate, prompt=60, output=60)
        try:
            traffic.aim(
                [
                    Target(model["name"], worker["url"])
                    for model in status["models"]
                    for worker in model["workers"]
                ]
            )
            time.sleep(3)
            for _ in range(args.n):
                os.kill(running.status()["daemon"]["pid"], signal.SIGKILL)
                time.sleep(args.away)
                start = time.monotonic()
                running.run("up", "-d")
                running.wait_ready(names)
                adopted.append(time.monotonic() - start)
                time.sleep(2)
            after = {w["id"]: w["pid"] for w in workers_of(running.status())}
        finally:
            summary = traffic.stop()
    sent = sum(model.sent for model in summary.models)
    table(
        [
            ["workers", len(pids)],
            ["pids unchanged", "yes" if after == pids else f"no: {pids} → {after}"],
            ["requests sent", sent],
            ["requests failed", summary.failed],
            ["arrivals dropped", summary.dropped],
            ["`up -d` to every worker ready, median (s)", median(adopted)],
            ["… slowest (s)", max(adopted)],
        ],
        [f"{args.n} × kill -9 of the daemon, {args.away:g} s without one", "value"],
    )


if __name__ == "__main__":
    main()
