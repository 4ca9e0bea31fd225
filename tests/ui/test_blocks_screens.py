"""The blocks of the screens beside the dashboard, as text, in their states and widths."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest

from tests.ui.scripted_looks import AUDIT, HOLDS, answered, configured, fleet_file, load_plan
from vllm_console.answer import Figure, Measured, Question
from vllm_console.looks import FileChange
from vllm_console.snapshot import Event, Failure
from vllm_console.ui.blocks.configured import SECRET, setting_row, setting_text, variable_row
from vllm_console.ui.blocks.happenings import audit_row, event_row, event_text
from vllm_console.ui.blocks.load_plan import rows as plan_rows
from vllm_console.ui.blocks.percentiles import graph, measured_text, shown, table_head, table_row
from vllm_console.ui.blocks.toml import toml_row
from vllm_console.ui.layers import layers
from vllm_console.ui.rows import Row, length, shifted, text_of
from vllm_console.ui.screens.agree import draw as agree_rows

DAY = Question("qwen3-32b", ("ttft", "queue", "itl"), 1_790_000_000.0, 1_790_086_400.0, step=300.0)


def inks(row: Row) -> dict[str, str]:
    return {text.strip(): ink for text, ink in row if text.strip()}


def test_layers_show_each_series_in_its_ink_and_gaps_empty() -> None:
    rows = layers([[1.0, None, 1.0], [2.0, None, 4.0]], ("low", "high"), 3, 2, 4.0)
    assert text_of(rows) == "  ⣿\n⣿ ⣿"
    assert rows[0] == [("  ⣿", "high")]
    assert [ink for _, ink in rows[1]] == ["low", "high", "low"]


def test_layers_of_nothing_are_empty() -> None:
    assert text_of(layers([[], []], ("a", "b"), 4, 2, 1.0)) == "\n"


@pytest.mark.parametrize(("width", "height"), [(76, 8), (35, 6), (156, 30), (20, 3), (8, 1)])
def test_a_history_graph_never_leaves_its_rectangle(width: int, height: int) -> None:
    answer = answered(DAY)
    rows = graph(answer, answer.measured[0], width, height, UTC)
    assert len(rows) <= height
    assert all(length(row) <= width for row in rows)


def test_a_history_graph_has_scale_markers_and_times() -> None:
    answer = answered(DAY)
    text = text_of(graph(answer, answer.measured[0], 100, 12, UTC))
    for words in ("TTFT   ■ p50 190 ms", "observed 96 % of the span", "1.50 s", "✖", "◆", "⣿"):
        assert words in text
    times = text.splitlines()[-1].split()
    assert len(times) == 5
    assert times[0] == times[-1]


def test_a_span_without_requests_says_so() -> None:
    answer = answered(DAY)
    nothing = Figure({"p50": None, "p95": None, "p99": None}, 0, coverage=0.4)
    quiet = Measured("ttft", "s", "distribution", None, nothing, steps=(nothing,) * 3)
    text = text_of(graph(answer, quiet, 60, 10, UTC))
    assert "no request ended in this span" in text
    assert "■ p50 –" in text
    assert "observed 40 % of the span" in text
    assert "–" in text_of([table_row(quiet, 100, True)])


def test_a_percentile_is_a_point_a_bracket_or_noise() -> None:
    values = {"p50": 0.1, "p95": 0.2, "p99": 0.4}
    of = Figure(values, 9, between={"p50": (0.0, 0.15), "p99": (0.3, None)}, thin=("p95",))
    assert shown(of, "p50") == ("≤150", "ms")
    assert shown(of, "p95") == ("~200", "ms")
    assert shown(of, "p99") == (">300", "ms")
    assert shown(Figure({}), "p50") == ("–", "")


@pytest.mark.parametrize("width", [35, 60, 100, 160])
@pytest.mark.parametrize("compared", [True, False])
def test_the_columns_of_the_history_table_stand_under_their_names(
    width: int, compared: bool
) -> None:
    measured = answered(replace(DAY, compare=compared)).measured[0]
    row, head = table_row(measured, width, compared), table_head(width, compared)
    assert length(row) <= width
    for name, value in (("p50", "190 ms"), ("p95", "399 ms")):
        text, title = text_of([row]), text_of([head])
        if width >= 60:
            assert text.index(value) + len(value) == title.index(name) + len(name)


def test_a_slower_p95_is_marked_and_a_faster_one_too() -> None:
    measured = answered(replace(DAY, compare=True)).measured[0]
    assert inks(table_row(measured, 160, True))["▲ 23.5 %"] == "warn!"
    assert measured.change is not None
    better = {"p95": replace(measured.change["p95"], percent=-30.0)}
    assert inks(table_row(replace(measured, change=better), 160, True))["▼ 30 %"] == "ok"
    assert measured_text(measured).startswith("ttft  p50 190 ms")


def test_the_plan_of_a_load_says_first_whether_it_can_start() -> None:
    plan = load_plan("phi-4")

    def verdict(**facts: object) -> str:
        return text_of(plan_rows(replace(plan, **facts), 100)[:2])  # type: ignore[arg-type]

    assert verdict() == "◐ it can start, after what it waits for\n"
    assert verdict(waits_for=()).startswith("● it can start now   l loads it")
    assert verdict(workers=0).startswith("● all its workers run already")
    why = "models.phi-4 needs 2 GPUs: 1 of 8 free; unload a model"
    assert verdict(refused=(why,)) == f"✖ it could not start now\n  {why}"


def test_a_plan_on_a_full_gpu_warns_and_one_without_figures_shows_none() -> None:
    plan = load_plan("phi-4")
    full = replace(plan.gpus[0], used_bytes=120 * 2**30)
    text = text_of(plan_rows(replace(plan, gpus=(full,)), 100))
    assert "▲ only 21.0 GiB are free now" in text
    unknown = replace(plan.gpus[0], used_bytes=None, total_bytes=None, wanted_bytes=None)
    text = text_of(plan_rows(replace(plan, gpus=(unknown,), expected_s=None), 40))
    assert "– used of –" in text
    assert "–  this revision has not started here yet" in text
    cpu = replace(plan, device="cpu", gpus=(), weights_bytes=None)
    assert "300 GiB free" in text_of(plan_rows(cpu, 60))


def test_a_setting_shows_its_origin_and_a_secret_never_its_value() -> None:
    told = configured("qwen3-32b")
    row = setting_row(told.settings[0], 80)
    assert text_of([row]).startswith("source")
    assert text_of([row]).endswith("fleet.toml:9")
    assert inks(setting_row(told.settings[1], 80))["built-in"] == "dim"
    secret = told.environment[0]
    assert SECRET in text_of([variable_row(secret, 80)])
    assert setting_text(secret) == f"HF_TOKEN={SECRET}"
    assert all(length(setting_row(s, 40)) <= 40 for s in told.settings)


def test_an_event_tells_what_to_do_about_a_failure() -> None:
    failure = Failure("killed", "signal 9", "look at dmesg", "2026-11-20T12:00:00+00:00")
    event = Event(1, "2026-11-20T12:00:00+00:00", "crit", "phi-4-1", "failed", failure)
    wide = text_of([event_row(event, 120, UTC)])
    assert wide.startswith("11-20 12:00:00  ✖ phi-4-1")
    assert wide.endswith("failed  → look at dmesg")
    assert text_of([event_row(event, 60, UTC)]).startswith("12:00:00  ✖ phi-4-1")
    assert "phi-4-1" not in text_of([event_row(event, 120, UTC, subject=False)])
    assert event_text(event).endswith("failed → look at dmesg")


def test_an_audit_entry_tells_who_what_and_why_not() -> None:
    done, refused = AUDIT[1], AUDIT[2]
    assert "● ada" in text_of([audit_row(done, 120, UTC)])
    assert "scale qwen3-32b workers=2" in text_of([audit_row(done, 120, UTC)])
    assert inks(audit_row(refused, 120, UTC))["✖"] == "crit!"
    slow = replace(done, seconds=2.34)
    assert text_of([audit_row(slow, 160, UTC)]).endswith("ok after 2.3 s")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("[models.a]  # one", ["[models.a]", "# one"]),
        ('  key = "a # b"  # note', ["key", "=", '"a # b"', "# note"]),
        ("# all", ["# all"]),
        ("  8,", ["8,"]),
        ("", []),
        ("key = 'open", ["key", "=", "'open"]),
    ],
)
def test_a_line_of_toml_is_parted_and_loses_nothing(line: str, parts: list[str]) -> None:
    row = toml_row(line)
    assert "".join(text for text, _ in row) == line
    assert [text.strip() for text, _ in row if text.strip()] == parts


def test_a_plan_to_agree_to_is_cut_where_it_is_long() -> None:
    found = fleet_file(HOLDS)
    assert "slo.ttft_p95: none → 800ms" in text_of(agree_rows(found, 80))
    many = tuple(FileChange(f"m{i}", "restart", ("a: 1 → 2",)) for i in range(20))
    text = text_of(agree_rows(replace(found, changes=many), 80))
    assert "… and 25 more" in text
    assert text.endswith("y apply    N leave everything as it runs")


def test_a_row_slides_to_the_left() -> None:
    assert shifted([("abc", "x"), ("def", "y")], 4) == [("", "x"), ("ef", "y")]
    assert shifted([("abc", "x")], 0) == [("abc", "x")]
