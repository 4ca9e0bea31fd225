"""`history`: tables, JSON, CSV and exports of a past that a daemon left, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.history.past import BOUNDS, EPOCH, Past, sample
from vllm_console.answer import Answer
from vllm_console.cli.answers import rows, shown, sparkline, table
from vllm_console.cli.main import main
from vllm_console.history.asking import question
from vllm_console.history.points import Point
from vllm_console.history.questions import answer
from vllm_console.history.subjects import Known
from vllm_console.history.when import iso

Verb = Callable[..., int]
FLEET = """
[fleet]
name = "t"
[models.chat]
source = "tiny:small"
aliases = ["c"]
[models.chat.slo]
ttft_p95 = "300ms"
"""
SPAN = ("--since", iso(EPOCH), "--until", iso(EPOCH + 600))
KNOWN = Known({"chat": ("c",)}, {"chat": {"ttft": 0.3}}, alive=True)


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    """Ten minutes of a model of one worker, with a gap of 200 s in which no daemon ran."""
    (tmp_path / "fleet.toml").write_text(FLEET)
    past = Past(tmp_path)
    for second in range(1, 601):
        past.at = second
        if 200 < second <= 400:
            continue
        each = sample(second, 2 * second, running=2.0, requests_finished=second)
        past.tick(("worker/chat-1", each), ("model/chat", each), ("fleet", each))
    told = [
        (0, "info", "fleet", "daemon 0.1.0 started"),
        (30, "ok", "chat-1", "ready in 4.0 s"),
        (401, "info", "fleet", "daemon 0.1.0 started, 1 adopted in 4 ms"),
        (401, "ok", "chat-1", "adopted, pid 7, not touched"),
        (450, "warn", "chat-1", "stalled: requests run, no iteration has finished for 30 s"),
    ]
    past.connection.executemany(
        "INSERT INTO events (at, level, subject, text) VALUES (?, ?, ?, ?)",
        [(iso(EPOCH + at), *rest) for at, *rest in told],
    )
    yield past
    past.close()


@pytest.fixture
def verb(past: Past) -> Verb:
    """Runs `history` on that fleet, while no daemon runs."""
    where = past.path.parent
    options = ["--fleet", str(where / "fleet.toml"), "--state-dir", str(where)]
    return lambda *words: main(["history", *words, *options])


def ask(past: Past, subject: str = "chat", **asked: Any) -> Answer:
    now = EPOCH + 600
    since, until = iso(EPOCH), iso(now)
    made = question(subject, **{"since": since, "until": until, **asked}, now=now, zone=UTC)
    return answer(past.reader(), made, KNOWN, now)


def test_a_table_tells_values_gaps_and_what_happened(past: Past) -> None:
    found = ask(past, metrics=["ttft", "requests", "slo", "availability"], step="100s")
    assert "\n".join(table(found, UTC)) == TABLE


TABLE = """\
chat · 2023-11-14 22:13 – 22:23 UTC (10m)

             p50   p95   p99  events
ttft  200–500 ms  >1 s  >1 s   1,198  ██  ██  observed 66 %

          per s  count
requests      1    599  ██  ██  observed 66 %

                         share  missed  events
slo:ttft ≤ 300 ms  39.9–59.9 %     640   1,198  ██  ██  observed 66 %

              available  of workers
availability       95 %       100 %  ▆█████

                ttft                       requests     slo:ttft  availability
                 p50   p95    p99  events     per s        share     available
22:13:20  200–500 ms  >1 s  ~>1 s     198         1  39.4–59.6 %          70 %  observed 99 %
  ○ 22:13:20  fleet  daemon 0.1.0 started
  ▲ 22:13:50  chat-1  ready in 4.0 s
22:15:00  200–500 ms  >1 s  ~>1 s     200         1      40–60 %         100 %
… 2 steps not observed
22:20:00  200–500 ms  >1 s  ~>1 s     198         1  39.4–59.6 %         100 %  observed 99 %
  ○ 22:20:01  fleet  daemon 0.1.0 started, 1 adopted in 4 ms
  ▲ 22:20:01  chat-1  adopted, pid 7, not touched
  ✗ 22:20:50  chat-1  stalled: requests run, no iteration has finished for 30 s
22:21:40  200–500 ms  >1 s  ~>1 s     200         1      40–60 %         100 %

~ fewer than three events lie beyond it: mostly noise
≤ and – tell the bucket of the engine's histogram that holds it: it is too wide for a point"""


def test_one_metric_has_a_bar_a_step(past: Past) -> None:
    found = ask(past, metrics=["requests"], step="300s")
    assert "\n".join(table(found, UTC)) == BARS


BARS = """\
chat · 2023-11-14 22:13 – 22:23 UTC (10m)

          per s  count
requests      1    599  ██  observed 66 %

          requests
             per s
22:13:20         1  ████████████  observed 66 %
  ○ 22:13:20  fleet  daemon 0.1.0 started
  ▲ 22:13:50  chat-1  ready in 4.0 s
22:18:20         1  ████████████  observed 66 %
  ○ 22:20:01  fleet  daemon 0.1.0 started, 1 adopted in 4 ms
  ▲ 22:20:01  chat-1  adopted, pid 7, not touched
  ✗ 22:20:50  chat-1  stalled: requests run, no iteration has finished for 30 s"""


def test_parts_and_the_span_before_stand_below_their_metric(past: Past) -> None:
    found = ask(past, metrics=["ttft"], by="worker", compare="previous", since=iso(EPOCH + 500))
    assert "\n".join(table(found, UTC)) == COMPARED


COMPARED = """\
chat · 2023-11-14 22:21 – 22:23 UTC (1m40s)

                 p50   p95    p99  events
ttft      200–500 ms  >1 s  ~>1 s     200
  before  200–500 ms  >1 s  ~>1 s     198
  change           –     –      –
  chat-1  200–500 ms  >1 s  ~>1 s     200
  before  200–500 ms  >1 s  ~>1 s     198
  change           –     –      –

~ fewer than three events lie beyond it: mostly noise
≤ and – tell the bucket of the engine's histogram that holds it: it is too wide for a point"""


def test_noise_is_faint_on_a_terminal(past: Past) -> None:
    found = ask(past, metrics=["ttft"], since=iso(EPOCH + 590), quantiles="50,99")
    plain, faint = (list(table(found, UTC, dim=dim)) for dim in (False, True))
    assert any("~>1 s" in line for line in plain)
    assert any("\x1b[2m~>1 s\x1b[0m" in line for line in faint)


def test_json_is_the_answer_as_the_control_api_gives_it(
    verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("c", "--metric", "ttft,requests", "-m", "running", "--json", *SPAN) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["schema"] == "vllm-console/history/1"
    assert found["subject"] == "model/chat"
    assert [each["metric"] for each in found["measured"]] == ["ttft", "requests", "running"]
    assert found["measured"][0]["figure"]["count"] == 1198
    assert shown.err.startswith("no daemon runs; this is what ")


def test_csv_has_one_value_a_line_of_the_span_and_its_steps(
    verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--metric", "ttft", "--quantiles", "50,99", "--step", "5m", "--compare", "previous")
    assert verb("chat", *words, "--csv", *SPAN) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["value_of"], row["events"]) for row in found] == [
        ("p50", ""), ("p99", ""), ("p50", "1198"), ("p99", "1198"),
        ("p50", "398"), ("p99", "398"), ("p50", "398"), ("p99", "398"),
    ]  # fmt: skip
    assert found[0]["since"] == iso(EPOCH - 600)
    assert (found[3]["low"], found[3]["high"], found[3]["coverage"]) == ("1.0", "", "0.663333")
    assert (found[-1]["since"], found[-1]["until"]) == (iso(EPOCH + 300), iso(EPOCH + 600))


def test_every_metric_is_listed_without_a_fleet(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["history", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "FORM", "UNIT", "MEANING"]
    assert any(line.startswith("ttft ") for line in lines)
    assert main(["history", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["metrics"]
    assert len(listed) == len(lines) - 1


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ([], 2, "history of whom? Name a model, a worker, a GPU or fleet"),
        (["chat", "more"], 2, "history chat more: takes one subject"),
        (["cat"], 4, 'nothing is known of "cat"; did you mean "chat"?'),
        (["chat", "-m", "tfft"], 2, 'no metric "tfft"; did you mean "ttft"?'),
        (["chat", "--since", "yesterdy"], 2, 'not a time: "yesterdy"; did you mean "yesterday"?'),
        (["chat", "-q", "0.95"], 2, 'quantile 0.95: is in percent; write "95"'),
        (["chat", "--format", "csv"], 2, "--format: is not of a question"),
        (["revisions"], 2, "`vllm-console history revisions MODEL`: MODEL is missing"),
        (["revisions", "chat", "--step", "1h"], 2, "--step: is not of revisions"),
        (["export"], 2, "`vllm-console history export FILE`: FILE is missing"),
        (["export", "-", "-m", "ttft"], 2, "--metric: is not of export"),
        (["export", "-", "--format", "parket"], 2, '--format parket: did you mean "parquet"?'),
        (["export", "-", "--format", "x"], 2, "--format x: there are csv, parquet, openmetrics"),
        (["export", "-", "--step", "1ms"], 2, "--step 1ms: rows are a second apart, or more"),
        (["export", "-", "--step", "x"], 2, '--step: not a duration: "x"'),
        (["export", "-", "--since", "now"], 2, "--since now: is not before where the span ends"),
        (["export", "-", "--subject", "cat"], 4, 'nothing is known of "cat"'),
    ],
)
def test_a_mistake_is_one_line(
    verb: Verb, capsys: pytest.CaptureFixture[str], words: list[str], code: int, line: str
) -> None:
    assert verb(*words) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"vllm-console: {line}")
    assert said.err.count("\n") == 1


def test_without_daemon_and_file_it_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    where = ["--fleet", str(tmp_path / "fleet.toml"), "--state-dir", str(tmp_path)]
    assert main(["history", "chat", *where]) == 3
    assert "up -d" in capsys.readouterr().err
    assert main(["history", "export", "-", *where]) == 1
    assert capsys.readouterr().err.endswith("history.sqlite: nothing is recorded yet\n")


def test_csv_export_has_every_number_of_the_rows(
    verb: Verb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.csv"
    words = ("--subject", "chat", "--step", "10s", *SPAN)
    assert verb("export", str(file), *words) == 0
    found = list(csv.DictReader(io.StringIO(file.read_text())))
    assert capsys.readouterr().err.startswith(f"{len(found)} lines of ")
    assert {row["subject"] for row in found} == {"model/chat"}
    tokens = [row for row in found if row["metric"] == "generation_tokens"]
    assert [float(row["value"]) for row in tokens[1:4]] == [40, 60, 80]
    assert len(tokens) == 40
    at = tokens[3]["at"]
    buckets = {float(row["le"]): float(row["value"]) for row in found
               if row["at"] == at and row["le"]}  # fmt: skip
    assert buckets == dict(zip((*BOUNDS, math.inf), (16, 32, 48, 64, 80), strict=True))
    (total,) = (float(r["value"]) for r in found if (r["at"], r["metric"]) == (at, "ttft_s_sum"))
    assert total == 80 / 4
    assert not list(tmp_path.glob("*.part"))


def test_the_file_of_an_export_may_follow_its_options(verb: Verb, tmp_path: Path) -> None:
    first, last = tmp_path / "first.csv", tmp_path / "last.csv"
    assert verb("export", str(first), "--format", "csv", *SPAN) == 0
    assert verb("export", "--format", "csv", *SPAN, str(last)) == 0
    assert first.read_text() == last.read_text() != ""


def test_an_export_that_fails_leaves_no_file(
    verb: Verb, past: Past, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(*_: object) -> Iterator[Point]:
        yield Point(EPOCH, "fleet", "running", None, 1.0)
        raise OSError(28, "No space left on device")

    out = tmp_path / "out.csv"
    beyond = tmp_path / "none" / "out.csv"
    assert verb("export", str(beyond), *SPAN) == 1
    assert capsys.readouterr().err == (
        f"vllm-console: {beyond}: cannot be written: No such file or directory\n"
    )
    with monkeypatch.context() as patched:
        patched.setattr("vllm_console.cli.export.points", full)
        assert verb("export", str(out), *SPAN) == 1
    said = f"vllm-console: {out}: cannot be written: No space left on device\n"
    assert capsys.readouterr().err == said
    past.connection.execute("UPDATE chunk SET rows = x'0102'")
    assert verb("export", str(out), *SPAN) == 1
    said = capsys.readouterr().err
    assert "history.sqlite: cannot be read" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_a_reader_of_an_export_that_goes_away_is_no_error(past: Past) -> None:
    where = past.path.parent
    command = [sys.executable, "-m", "vllm_console", "history", "export", "-", *SPAN]
    command += ["--fleet", str(where / "fleet.toml"), "--state-dir", str(where)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout is not None
        assert export.stdout.readline() == b"at,subject,metric,le,value\n"
        export.stdout.close()
        assert export.stderr is not None
        assert export.stderr.read() == b""
        assert export.wait(30) == 0


def test_parquet_without_pyarrow_says_what_brings_it(
    verb: Verb, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert verb("export", "-", "--format", "parquet") == 1
    assert "pip install 'vllm-console[parquet]'" in capsys.readouterr().err


class FakeParquet(ModuleType):
    """Stands in for pyarrow and pyarrow.parquet: keeps the tables that are written."""

    def __init__(self) -> None:
        super().__init__("pyarrow")
        self.written: list[list[list[Any]]] = []
        self.Table = SimpleNamespace(from_arrays=lambda arrays, schema: arrays)
        self.schema = lambda fields: [SimpleNamespace(type=kind) for _, kind in fields]

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: name

    def array(self, column: list[Any], kind: str) -> list[Any]:
        return column

    def ParquetWriter(self, out: Any, schema: Any, **_: Any) -> FakeParquet:
        return self

    def __enter__(self) -> FakeParquet:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write_table(self, table: list[list[Any]]) -> None:
        self.written.append(table)


def test_parquet_has_the_rows_of_the_csv(
    verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeParquet()
    monkeypatch.setitem(sys.modules, "pyarrow", fake)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", fake)
    for form in ("csv", "parquet"):
        assert verb("export", str(tmp_path / form), "--format", form, *SPAN) == 0
    found = list(csv.DictReader(io.StringIO((tmp_path / "csv").read_text())))
    ((at, subject, metric, le, value),) = fake.written
    assert len(found) == len(at)
    assert [iso(each / 1e3) for each in at] == [row["at"] for row in found]
    assert (subject, metric) == tuple([row[key] for row in found] for key in ("subject", "metric"))
    assert [None if not row["le"] else float(row["le"]) for row in found] == le
    assert [float(row["value"]) for row in found] == value


@pytest.mark.parametrize(
    ("values", "line"),
    [((0.0, 4.0, 8.0), "▁▅█"), ((None, 1.0, None), " █ "), ((0.0, None), "▁ "), ((), "")],
)
def test_a_sparkline_has_a_bar_a_value(values: tuple[float | None, ...], line: str) -> None:
    assert sparkline(values) == line


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.9999, "ratio", "99.990%"),
        (1.0, "ratio", "100 %"),
        (0.25, "ratio", "25 %"),
        (3 * 2**30, "bytes", "3.0 GiB"),
        (512.0, "W", "512 W"),
        (1234.0, "tokens", "1,234"),
        (2.0, "tokens", "2"),
        (0.421, "per s", "0.42"),
    ],
)
def test_a_value_is_written_with_its_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_a_csv_line_quotes_what_it_must(past: Past) -> None:
    found = list(rows(ask(past, metrics=["ttft"], quantiles="50")))
    assert found[0].startswith("metric,part,since,until,value_of,value,low,high,thin,events")
    assert len(found) == 2
