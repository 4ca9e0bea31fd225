"""python -m benchmarks.history.questions: what a question costs, and what Prometheus answers.

The answers of Prometheus are of our own export: it takes in the OpenMetrics text that
`history export` writes, and is asked for `histogram_quantile` over the same spans.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import table
from benchmarks.history.archive import END, simulated, written
from benchmarks.history.prometheus import Scraping
from vllm_console.answer import Answer, Question
from vllm_console.control.openmetrics import openmetrics
from vllm_console.history import file
from vllm_console.history.questions import answer
from vllm_console.history.reading import Reader
from vllm_console.history.store import reader as reader_of
from vllm_console.history.subjects import Known

_NOW = float(END)
_DAY_S = 86_400.0
_KNOWN = Known(alive=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", type=Path, help="the program; promtool beside it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "history.sqlite"
        written(simulated(30.0, 2), path, 16, 30.0)
        with file.reading(path) as connection:
            reader = reader_of(connection)
            _costs(reader)
            if args.prometheus is None:
                print("Prometheus: not run (name it with --prometheus)")
            else:
                _beside(reader, args.prometheus, Path(directory))


def _costs(reader: Reader) -> None:
    asked: dict[str, Question] = {}
    for name, seconds in (("15 min", 900.0), ("24 h", _DAY_S), ("30 d", 30 * _DAY_S)):
        for subject in ("w-1", "m-1", "fleet"):
            asked[f"ttft of {subject}, {name}"] = _question(subject, seconds)
    metrics = ("ttft", "itl", "e2e", "requests", "running")
    asked |= {
        "ttft of m-1, 24 h by 5 min": _question("m-1", _DAY_S, step=300.0),
        "ttft of m-1, 30 d by 1 h": _question("m-1", 30 * _DAY_S, step=3600.0),
        "5 metrics of m-1, 24 h by 5 min": _question("m-1", _DAY_S, metrics, step=300.0),
        "ttft of 16 workers, 24 h, compared": _question("fleet", _DAY_S, by="worker", compare=True),
    }
    rows = [[name, *_timed(reader, question)] for name, question in asked.items()]
    table(rows, ("question", "first ms", "again ms"))


def _beside(reader: Reader, prometheus: Path, folder: Path) -> None:
    """Our answers and Prometheus', of the last two hours at one second."""
    text, data = folder / "export.om", folder / "tsdb"
    subjects = ["worker/w-1", "model/m-1", "fleet"]
    with text.open("w", encoding="utf-8") as out:
        out.writelines(openmetrics(reader, subjects, _NOW - 7000, _NOW + 1, 1.0))
    promtool = prometheus.with_name("promtool")
    take_in = [str(promtool), "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    subprocess.run(take_in, check=True, stdout=subprocess.DEVNULL)
    labels = {"w-1": '{worker="w-1"}', "m-1": '{model="m-1"}', "fleet": ""}
    kinds = {"w-1": "worker", "m-1": "model", "fleet": "fleet"}
    rows = []
    with Scraping(prometheus, [], data) as theirs:
        for subject in labels:
            for metric, seconds in (("ttft", 900), ("itl", 900), ("e2e", 3600), ("queue", 60)):
                name = f"vllm_console_{kinds[subject]}_{metric}_seconds_bucket{labels[subject]}"
                query = f"histogram_quantile(0.95, {name} - {name} offset {seconds}s)"
                value, took = theirs.asked(query, _NOW)
                question = _question(subject, seconds, (metric,))
                ours = answer(reader, question, _KNOWN, _NOW).measured[0].figure.values["p95"]
                again = _timed(reader, question)[1]
                same = ours is not None and f"{ours:.4g}" == f"{value:.4g}"
                rows.append([f"{metric} of {subject}, {seconds} s", ours, value, same, again, took])
    heads = ("P95", "ours", "Prometheus", "same to 4 digits", "ours ms", "Prometheus ms")
    print()
    table(rows, heads)


def _question(
    subject: str,
    seconds: float,
    metrics: tuple[str, ...] = ("ttft",),
    *,
    step: float | None = None,
    by: str | None = None,
    compare: bool = False,
) -> Question:
    return Question(subject, metrics, _NOW - seconds, _NOW, step=step, by=by, compare=compare)


def _timed(reader: Reader, question: Question) -> list[float]:
    """Milliseconds of a first answer, and the median of later ones."""

    def ask() -> Answer:
        return answer(reader, question, _KNOWN, _NOW)

    return [_ms(ask), statistics.median(_ms(ask) for _ in range(9))]


def _ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3


if __name__ == "__main__":
    main()
