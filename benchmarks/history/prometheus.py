"""Prometheus beside: the same targets, the same numbers, the same questions."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from types import TracebackType

import psutil

from benchmarks.common import table
from benchmarks.history.archive import END
from benchmarks.history.simulated import Simulated
from vllm_console.history import file
from vllm_console.history.codec import Chunk
from vllm_console.history.ingest import Ingest, Taken, Tick
from vllm_console.history.reading import Reader
from vllm_console.history.totals import Totals
from vllm_console.telemetry.sample import Sample

_READY_S = 60.0
_HOUR_S = 3600


class Scraping:
    """A running Prometheus with a directory of its own; ends with its context."""

    def __init__(self, program: Path, ports: list[int], data: Path | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory()
        folder = Path(self._directory.name)
        targets = [f"127.0.0.1:{port}" for port in ports]
        jobs = [
            {
                "job_name": "vllm",
                "scrape_interval": "1s",
                "scrape_timeout": "800ms",
                "static_configs": [{"targets": targets}],
                "metric_relabel_configs": [
                    {"source_labels": ["__name__"], "regex": "vllm:.*", "action": "keep"},
                    {"source_labels": ["__name__"], "regex": ".*_created", "action": "drop"},
                ],
            }
        ]
        config = folder / "prometheus.json"
        config.write_text(json.dumps({"scrape_configs": jobs if ports else []}))
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [
                str(program), f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}",
                f"--storage.tsdb.path={data or folder / 'data'}",
                "--storage.tsdb.retention.time=100y", "--log.level=error",
            ],
            cwd=folder,
        )  # fmt: skip

    def __enter__(self) -> Scraping:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready"):
                return self
            time.sleep(0.1)
        raise SystemExit("Prometheus did not become ready")

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._directory.cleanup()

    def cost(self, warm_up: float, seconds: float) -> tuple[float, float]:
        """CPU in % of a core and resident MB while it scrapes."""
        process = psutil.Process(self._process.pid)
        time.sleep(warm_up)
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        return 100 * spent / seconds, process.memory_info().rss / 1e6

    def asked(self, query: str, at: float) -> tuple[float, float]:
        """The one value of an instant query, and the ms it took when asked again."""
        query_string = urllib.parse.urlencode({"query": query, "time": at})
        took, value = [], float("nan")
        for _ in range(9):
            begun = time.perf_counter()
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query_string}") as answer:
                found = json.load(answer)["data"]["result"]
            took.append(time.perf_counter() - begun)
            value = float(found[0]["value"][1])
        return value, median(took[1:]) * 1e3


def beside(program: Path | None, workers: int) -> None:
    """Prints bytes a sample and percentiles of both over the same hour of the same workers."""
    header = ["", "B/sample", "P95 of a worker, 15 min", "ms", "P95 of all, 15 min", "ms"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = _ours(folder, workers)
        rows: list[list[object]] = [["vllm-console", *ours]]
        if program is None:
            rows.append(["Prometheus", *["not run"] * 5])
        else:
            rows.append(["Prometheus", *_theirs(program, folder, workers)])
    table(rows, header)
    print(f"{workers} workers over an hour at 1 s; bytes of chunks and of blocks a stored number")


def _ours(folder: Path, workers: int) -> list[object]:
    """Runs the hour through the store, and writes it down for Prometheus, too."""
    connection, _ = file.open_to_write(folder / "history.sqlite")
    ingest = Ingest()
    simulated = [Simulated(seed) for seed in range(workers)]
    exposition: dict[str, list[str]] = {}
    begin = END - _HOUR_S
    fleet = Totals()
    for second in range(_HOUR_S + 1):
        at = begin + second
        taken = []
        for number, worker in enumerate(simulated):
            sample = worker.step(at, 1.0)
            taken.append(Taken(f"worker/w-{number}", sample))
            fleet.add(f"w-{number}", sample)
            _expose(exposition, number, at, sample)
        total = fleet.sample(at)
        assert total is not None
        taken.append(Taken("fleet", total))
        connection.execute("BEGIN")
        work = ingest.take(Tick(at, at, taken), connection)
        for statement, values in work.statements:
            connection.execute(statement, values)
        connection.execute("COMMIT")
        work.done()
    with (folder / "all.om").open("w") as out:
        for family, lines in exposition.items():
            out.write(f"# TYPE {family}\n")
            out.writelines(lines)
        out.write("# EOF\n")
    size, count = 0, 0
    for k, blob in connection.execute("SELECT k, rows FROM chunk WHERE k < 1 << 60"):
        if k >> 36 <= workers:
            size += len(blob)
            count += Chunk(blob).rows * ingest.lines["worker/w-0"].layout.width
    row: list[object] = [size / count]
    past = Reader(ingest, connection)
    for subject in ("worker/w-0", "fleet"):
        took = []
        for _ in range(9):
            begun = time.perf_counter()
            window = past.window(subject, END - 900, END)
            assert window is not None
            p95 = window.quantiles("ttft_s").p95
            took.append(time.perf_counter() - begun)
        row += [f"{p95:.6f}", median(took[1:]) * 1e3]
    connection.close()
    return row


def _expose(exposition: dict[str, list[str]], number: int, at: float, sample: Sample) -> None:
    stamp = f"{at:.0f}\n"
    for kind, numbers in (("counter", sample.counters), ("gauge", sample.gauges)):
        for name, value in numbers.items():
            plain = name.replace(":", "_")
            end = "_total" if kind == "counter" else ""
            exposition.setdefault(f"{plain} {kind}", []).append(
                f'{plain}{end}{{worker="{number}"}} {value!r} {stamp}'
            )
    for name, histogram in sample.histograms.items():
        lines = exposition.setdefault(f"{name} histogram", [])
        edges = [*map(repr, histogram.bounds), "+Inf"]
        for edge, count in zip(edges, histogram.counts, strict=True):
            lines.append(f'{name}_bucket{{worker="{number}",le="{edge}"}} {count:.0f} {stamp}')
        lines.append(f'{name}_count{{worker="{number}"}} {histogram.count:.0f} {stamp}')
        lines.append(f'{name}_sum{{worker="{number}"}} {histogram.sum!r} {stamp}')


def _theirs(program: Path, folder: Path, workers: int) -> list[object]:
    data = folder / "data"
    tool = [str(program.with_name("promtool")), "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run(
        [*tool, str(folder / "all.om"), str(data)], check=True, stdout=subprocess.DEVNULL
    )
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    count = 0
    for meta in data.glob("*/meta.json"):
        count += json.loads(meta.read_text())["stats"]["numSamples"]
    row: list[object] = [size / count]
    with Scraping(program, [], data) as other:
        for who in ('{worker="0"}', ""):
            # the counts at both ends, as a window of ours has them; `increase` would extrapolate
            grown = f"ttft_s_bucket{who} - ttft_s_bucket{who} offset 15m"
            query = f"histogram_quantile(0.95, sum by (le) ({grown}))"
            value, took = other.asked(query, END)
            row += [f"{value:.6f}", took]
    return row
