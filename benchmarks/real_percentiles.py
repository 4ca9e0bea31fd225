"""How far `history` is from what clients of real vLLM saw: its percentiles beside theirs.

    python benchmarks/real_percentiles.py [--model tiny-writer] [--requests 300] [--streams 2]

The client times every event of every stream; the history answers from the engine's histograms. What
lies between the two (HTTP, the client's own scheduling) counts as error here: some 3 to 10 ms on
shared cores, much of what a small model takes and little of what a larger one does.
"""

from __future__ import annotations

import json
import math
import threading
import time
from http.client import HTTPConnection
from itertools import pairwise
from urllib.parse import urlsplit

from common import fleet, parser, table, workers_of

QUANTILES = (50, 95, 99)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="tiny-writer")
    options.add_argument("--requests", type=int, default=300)
    options.add_argument("--streams", type=int, default=2, help="requests at a time")
    options.add_argument("--tokens", type=int, default=32)
    args = options.parse_args()
    with fleet(args.fleet, [args.model]) as (running, status):
        url = next(worker["url"] for worker in workers_of(status))
        seen = Seen()
        _stream(url, args.model, args.tokens, seen)  # the first request warms everything up
        time.sleep(2.5)  # a scrape has it
        seen, since = Seen(), time.time()
        waiting = iter(range(args.requests))
        lock = threading.Lock()

        def client() -> None:
            while True:
                with lock:
                    if next(waiting, None) is None:
                        return
                _stream(url, args.model, args.tokens, seen)

        threads = [threading.Thread(target=client) for _ in range(args.streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(2.5)
        said = running.run(
            *("history", args.model, "--json", "--quantiles", ",".join(map(str, QUANTILES))),
            *("--since", _iso(since - 1.0)),
            *(word for metric in ("ttft", "itl", "e2e") for word in ("--metric", metric)),
        )
    measured = {one["metric"]: one["figure"] for one in json.loads(said)["measured"]}
    rows = []
    for metric, values in (("ttft", seen.ttft), ("itl", seen.itl), ("e2e", seen.e2e)):
        figure = measured[metric]
        for q in QUANTILES:
            ours, true = figure["values"][f"p{q}"], _exact(values, q / 100)
            error = None if ours is None else 100 * (ours - true) / true
            rows.append(
                [
                    metric,
                    f"p{q}",
                    len(values),
                    figure["count"],
                    1e3 * true,
                    None if ours is None else 1e3 * ours,
                    error,
                ]
            )
    table(rows, ["metric", "", "client's", "engine's", "client ms", "history ms", "error %"])


class Seen:
    """What the client saw, in seconds."""

    def __init__(self) -> None:
        self.ttft: list[float] = []
        self.itl: list[float] = []
        self.e2e: list[float] = []


def _stream(url: str, model: str, tokens: int, seen: Seen) -> None:
    """One streamed completion; every event of the stream is one token of this model."""
    to = urlsplit(url)
    connection = HTTPConnection(to.hostname or "", to.port or 80, timeout=120)
    body = {"model": model, "prompt": "The quick brown fox", "max_tokens": tokens, "stream": True}
    begun = time.perf_counter()
    connection.request(
        "POST",
        "/v1/completions",
        json.dumps({**body, "ignore_eos": True}),
        {"Content-Type": "application/json"},
    )
    answer = connection.getresponse()
    times = []
    while line := answer.readline():
        if line.startswith(b"data: {"):
            times.append(time.perf_counter())
    connection.close()
    if not times:
        raise SystemExit(f"{url}: HTTP {answer.status}, no token")
    seen.ttft.append(times[0] - begun)
    seen.e2e.append(times[-1] - begun)
    seen.itl += [b - a for a, b in pairwise(times)]


def _exact(values: list[float], q: float) -> float:
    """The smallest value that at least a share `q` of the values is not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


if __name__ == "__main__":
    main()
