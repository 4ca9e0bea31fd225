"""What becomes of samples: counts go on over restarts, clocks and daemons; nothing is lost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.history.past import BOUNDS, EPOCH, Past, cell, sample
from vllm_console.history import file
from vllm_console.history.codec import Chunk
from vllm_console.history.ingest import Taken
from vllm_console.history.reading import covered
from vllm_console.telemetry.window import Window

_TOKENS = "generation_tokens"
_W = "worker/w"


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path)
    yield past
    past.close()


def _window(past: Past, since: float, until: float, subject: str = _W) -> Window:
    window = past.reader().window(subject, EPOCH + since, EPOCH + until)
    assert window is not None
    return window


def _grown(past: Past, since: float, until: float, subject: str = _W) -> float | None:
    return _window(past, since, until, subject).delta(_TOKENS)


def test_a_window_counts_what_happened_in_it(past: Past) -> None:
    past.run(700)
    assert _grown(past, 100, 700) == 1800
    assert _grown(past, 399, 400) == 3
    window = _window(past, 10, 650)
    assert window.seconds == 640
    assert window.old.at == EPOCH + 10
    assert window.quantiles("ttft_s").count == 1920


def test_a_sample_of_this_very_tick_is_in_the_answer(past: Past) -> None:
    past.run(5)
    assert _window(past, 0, 5).new.at == EPOCH + 5


def test_the_time_of_a_sample_is_kept_to_the_millisecond(past: Past) -> None:
    past.run(1)
    past.at = 400.1237
    past.tick((_W, sample(past.at, 9)))
    past.run(200)
    assert _window(past, 0, 401).new.at == EPOCH + 400.124


def test_a_restarted_worker_counts_on(past: Past) -> None:
    past.run(50)
    for second in range(50):
        past.at += 1
        past.tick((_W, sample(past.at, 2 * second, started=2.0)))
    assert _grown(past, 20, 100) == 3 * 30 + 98
    assert _window(past, 20, 100).quantiles("ttft_s").count == 3 * 30 + 98


def test_what_falls_without_a_start_time_is_a_restart(past: Past) -> None:
    past.tick((_W, sample(0, 100, started=None)))
    past.at = 1
    past.tick((_W, sample(1, 7, started=None)))
    assert _grown(past, 0, 1) == 7


def test_what_a_worker_counts_while_no_daemon_runs_is_counted_everywhere(past: Past) -> None:
    def tick(tokens: float, total: float, joins: tuple[str, ...] = ()) -> None:
        past.at += 1
        past.tick(
            Taken(_W, sample(past.at, tokens), joins),
            ("model/m", sample(past.at, total, started=None)),
            ("fleet", sample(past.at, total, started=None)),
        )

    for second in range(30):
        tick(1000 + second, second, ("model/m", "fleet") if second == 0 else ())
    past.restart()
    past.at += 3600
    for second in range(30):
        tick(5000 + second, second, ("model/m", "fleet") if second == 0 else ())
    for subject in (_W, "model/m", "fleet"):
        assert _grown(past, 1, past.at, subject) == 4029, subject
        assert _grown(past, past.at - 10, past.at, subject) == 10, subject
    window = _window(past, 1, past.at)
    assert covered(window, EPOCH + 1, EPOCH + past.at) == pytest.approx(58 / 3659, abs=1e-3)


def test_another_process_after_a_daemons_absence_counts_on_top(past: Past) -> None:
    past.run(30)
    past.restart()
    past.at += 100
    past.tick((_W, sample(past.at, 500, started=2.0)))
    assert _grown(past, 10, past.at) == 60 + 500


def test_a_total_counts_from_zero_in_each_daemon_and_on_top(past: Past) -> None:
    past.run(30, subject="fleet", started=0.0)
    past.restart()
    begun = past.at
    for _ in range(5):
        past.at += 1
        past.tick(("fleet", sample(past.at, 2 * (past.at - begun), started=None)))
    assert _grown(past, 10, past.at, "fleet") == 60 + 10


@pytest.mark.parametrize("stops", [1, 7, 119, 120, 121, 700])
def test_a_daemon_that_ends_at_any_moment_loses_nothing(past: Past, stops: int) -> None:
    past.run(stops)
    past.restart()
    past.run(1400)
    assert _grown(past, 1, past.at) == 3 * (past.at - 1)
    steps = past.reader().steps(_W, EPOCH + 1, EPOCH + past.at, 1.0)
    assert {step and step.delta(_TOKENS) for step in steps} == {3.0}
    tens = past.reader().steps(_W, EPOCH + 10, EPOCH + past.at // 10 * 10, 10.0)
    assert {step and step.delta(_TOKENS) for step in tens} == {30.0}


def test_the_file_alone_says_the_same(past: Past) -> None:
    past.run(1000)
    for since, until in ((0, 1000), (100, 101), (880, 1000), (500, 990)):
        of_file = past.alone().window(_W, EPOCH + since, EPOCH + until)
        of_both = _window(past, since, until)
        assert of_file is not None
        assert of_file.delta(_TOKENS) == of_both.delta(_TOKENS)
        assert of_file.quantiles("ttft_s") == of_both.quantiles("ttft_s")


def test_a_clock_turned_back_overwrites_nothing(past: Past) -> None:
    past.run(1000)
    past.ahead -= 500
    past.run(100)
    assert past.reader().subjects() == [_W]
    assert len(past.ingest.lives[_W]) == 2
    assert _grown(past, 480, 600) == 3 * 100 + 3 * (1000 - 480)
    assert _grown(past, 510, 590) == 3 * 80
    first = past.connection.execute("SELECT rows FROM chunk WHERE k < 2 << 36")
    assert sum(Chunk(blob).rows for (blob,) in first) == 1000
    past.restart()
    past.run(300)
    assert _grown(past, 480, 900) == 3 * 400 + 3 * (1000 - 480)


def test_a_clock_set_ahead_leaves_a_gap(past: Past) -> None:
    past.run(60)
    past.ahead += 900
    past.run(60)
    window = _window(past, 1, 1020)
    assert window.delta(_TOKENS) == 3 * 119
    assert covered(window, EPOCH + 1, EPOCH + 1020) == pytest.approx(118 / 1019)
    assert past.reader().window(_W, EPOCH + 100, EPOCH + 900) is None


def test_after_a_jump_ahead_nothing_is_dropped_for_a_while(past: Past) -> None:
    past.run(600)
    before = past.chunks()
    past.ahead += 400 * 86400
    past.run(300)
    assert past.chunks()[0] >= before[0]


def test_new_names_and_new_bounds_begin_new_columns(past: Past) -> None:
    past.run(200)
    past.run(200, preemptions=5.0)
    finer = (0.1, 0.15, 0.2, 0.5, 1.0)
    for _ in range(200):
        past.at += 1
        past.tick((_W, sample(past.at, 3 * past.at, started=2.0, bounds=finer, preemptions=6.0)))
    reader = past.reader()
    assert _window(past, 250, 450).delta("preemptions") == 6
    assert _window(past, 100, 450).delta("preemptions") is None
    across = reader.window(_W, EPOCH + 300, EPOCH + 500)
    assert across is not None
    assert across.quantiles("ttft_s").count == 0
    assert across.delta(_TOKENS) == 3 * 100 + 3 * 500
    assert _window(past, 450, 550).quantiles("ttft_s").count == 300


def test_bounds_that_come_back_do_not_make_one_window_of_two(past: Past) -> None:
    past.run(50, started=1.0)
    for _ in range(50):
        past.at += 1
        past.tick((_W, sample(past.at, 7, started=2.0, bounds=(1.0, 2.0))))
    past.run(50, started=3.0)
    assert _window(past, 10, 140).quantiles("ttft_s").count == 0
    assert _window(past, 110, 140).quantiles("ttft_s").count == 90


def test_a_name_that_is_missing_for_a_while_is_absent_then(past: Past) -> None:
    past.run(10, preemptions=5.0)
    past.run(10)
    past.run(10, preemptions=8.0)
    assert _window(past, 5, 15).delta("preemptions") is None
    assert _window(past, 5, 25).delta("preemptions") == 3


def test_a_silent_subject_is_packed_all_the_same(past: Past) -> None:
    past.run(100)
    for _ in range(1500):
        past.at += 1
        past.tick()
    assert past.chunks().keys() == {0, 1}
    line = past.ingest.lines[_W]
    assert not line.tails[0].waiting
    assert not line.tails[1].waiting
    assert len(line.tails[2].waiting) == 1
    assert cell(past.connection, "SELECT count(*) FROM head WHERE k < 1 << 56") == 0
    past.restart()
    assert _grown(past, 10, 100) == 270


def test_the_journal_holds_what_is_not_packed_and_little_more(past: Past) -> None:
    past.run(1500)
    of_tier = "SELECT count(*) FROM head WHERE k >> 56 = "
    assert 120 <= cell(past.connection, of_tier + "0") <= 120 + 240 + 2
    assert 60 <= cell(past.connection, of_tier + "1") <= 60 + 24 + 2
    past.restart()
    past.run(400)
    assert cell(past.connection, of_tier + "0") <= 120 + 240 + 2


def test_a_file_begun_anew_gets_all_that_waits(past: Past) -> None:
    past.run(700)
    past.connection.close()
    past.path.unlink()
    for companion in ("-wal", "-shm"):
        past.path.with_name(past.path.name + companion).unlink(missing_ok=True)
    past.connection, _ = file.open_to_write(past.path)
    past.ingest.seed(past.connection)
    past.run(1000)
    alone = past.alone().window(_W, EPOCH + 700, EPOCH + 1700)
    assert alone is not None
    assert alone.delta(_TOKENS) == 3000
    assert cell(past.connection, "SELECT count(*) FROM head WHERE k >> 56 = 0") <= 362


def test_coarse_rows_stay_when_the_fine_ones_go(past: Past) -> None:
    past.run(600)
    for _ in range(100):
        past.at += 100
        past.tick((_W, sample(past.at, 3 * past.at)))
    first = cell(past.connection, "SELECT min(k & 0xfffffffff) * 64 FROM chunk WHERE k < 1 << 60")
    assert first > (EPOCH + past.at - 7200 - 2 * 120 - 200) * 1000
    window = _window(past, 300, past.at)
    assert window.delta(_TOKENS) == pytest.approx(3 * (past.at - 300), abs=30)
    assert window.seconds == pytest.approx(past.at - 300, abs=10)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1.0, 1.0, 1.0, 5.0, 5.0, 40.0, 700.0]),
            st.integers(0, 90),
            st.sampled_from(["", "", "", "", "restart", "daemon"]),
        ),
        min_size=2,
        max_size=150,
    ),
    st.data(),
)
def test_any_window_is_that_of_plain_lists(
    tmp_path_factory: pytest.TempPathFactory,
    moves: list[tuple[float, int, str]],
    data: st.DataObject,
) -> None:
    past = Past(tmp_path_factory.mktemp("past"))
    raw, started, total = 0, 1.0, 0
    times: list[float] = []
    totals: list[int] = []
    for apart, grown, happens in moves:
        past.at += apart
        if happens == "restart":
            raw, started = 0, started + 1
        elif happens == "daemon":
            past.restart()
        raw += grown
        total += grown
        past.tick((_W, sample(past.at, raw, started=started)))
        times.append(past.at)
        totals.append(total)
    reader = past.reader()
    for _ in range(5):
        since = data.draw(st.integers(0, round(past.at)))
        until = data.draw(st.integers(since, round(past.at)))
        old = bisect_right(times, since) - 1
        new = bisect_right(times, until) - 1
        if old < 0 or since - times[old] > 15:
            old += 1
        found = reader.window(_W, EPOCH + since, EPOCH + until)
        if new <= old:
            assert found is None
        else:
            assert found is not None
            assert found.delta(_TOKENS) == totals[new] - totals[old]
            assert found.quantiles("ttft_s").count == totals[new] - totals[old]
    past.close()


def test_every_bucket_comes_back(past: Past) -> None:
    past.run(300)
    window = _window(past, 7, 292)
    old, new = sample(0, 21).histograms["ttft_s"], sample(0, 876).histograms["ttft_s"]
    assert window.old.histograms["ttft_s"] == old
    assert window.new.histograms["ttft_s"] == new
    assert window.new.histograms["ttft_s"].bounds == BOUNDS
    assert dict(window.new.gauges) == {"running": 2.0}
