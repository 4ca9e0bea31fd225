"""The screens beside the dashboard: what each shows, how it is filtered, and how it is left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.pilot import Pilot

from tests.ui.playing import MOMENT, Stage
from tests.ui.scripted import LOG, LabFleet
from tests.ui.scripted_looks import FILE
from vllm_console.errors import ConsoleError, NoDaemon
from vllm_console.snapshot import Event
from vllm_console.ui.screens.dashboard import Dashboard
from vllm_console.ui.screens.events import Events
from vllm_console.ui.screens.fleet_file import FleetFilePage
from vllm_console.ui.screens.help import Help
from vllm_console.ui.screens.history import HistoryPage
from vllm_console.ui.screens.page import Page
from vllm_console.ui.screens.plan import PlanPage
from vllm_console.ui.screens.worker import WorkerDetail

ROW, TABS = (160, 48), (80, 24)
TROUBLED = LOG + (
    "\nERROR 11-20 12:05:01 [core.py:718] EngineCore failed\n"
    "Traceback (most recent call last):\n"
    '  File "core.py", line 700, in run\n'
    "torch.OutOfMemoryError: CUDA out of memory\n"
    + "".join(f"INFO 11-20 12:06:{i:02d} [x.py:1] line {i}\n" for i in range(60))
    + "ERROR 11-20 12:07:00 [core.py:9] the second failure\n"
    + "".join(f"INFO 11-20 12:08:{i:02d} [x.py:1] after {i}\n" for i in range(60))
)


async def go(stage: Stage, pilot: Pilot[None], *keys: str) -> str:
    """Show the console, press keys, wait for what they set off, and read the screen."""
    await stage.shown(pilot)
    for key in keys:
        await pilot.press(key)
        await stage.settled(pilot)
    return stage.text()


def top(stage: Stage) -> Page:
    screen = stage.app.screen
    assert isinstance(screen, Page)
    return screen


@pytest.mark.parametrize(
    ("key", "kind"),
    [("enter", WorkerDetail), ("L", WorkerDetail), ("E", Events), ("H", HistoryPage),
     ("P", PlanPage), ("F", FleetFilePage)],
)  # fmt: skip
@pytest.mark.parametrize("size", [(60, 16), (300, 80)])
async def test_every_screen_opens_scrolls_explains_itself_and_is_left(
    key: str, kind: type, size: tuple[int, int]
) -> None:
    stage = Stage()
    async with stage.app.run_test(size=size) as pilot:
        await go(stage, pilot, key)
        assert isinstance(stage.app.screen, kind)
        await go(stage, pilot, "down", "pagedown", "end", "right", "left", "home", "question_mark")
        assert isinstance(stage.app.screen, Help)
        await go(stage, pilot, "escape", "escape")
        assert isinstance(stage.app.screen, Dashboard)


async def test_the_config_tab_tells_each_value_with_its_origin() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "down", "enter", "2")
        for words in ("options.max_num_seqs", "256", "fleet.toml:13", "--set", "built-in",
                      "config · revision 3"):  # fmt: skip
            assert words in text
        text = await go(stage, pilot, "slash", "l", "e", "n", "enter")
        assert "options.max_model_len" in text
        assert "autostart" not in text
        await go(stage, pilot, "y")
        assert stage.app.clipboard == "options.max_model_len = 32768"
        assert "autostart" in await go(stage, pilot, "escape")
        assert isinstance(stage.app.screen, WorkerDetail)


async def test_the_environment_tab_blanks_secrets_on_the_screen_and_the_clipboard() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "down", "enter", "3")
        assert "HF_TOKEN" in text
        assert "•••  a secret" in text
        assert "VLLM_NO_USAGE_STATS" in text
        await go(stage, pilot, "y")
        assert stage.app.clipboard == "HF_TOKEN=•••"


async def test_the_timeline_is_of_this_worker_and_its_model_only() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "enter", "4")
        assert "ready in 94.2 s" in text
        assert "loading weights" not in text
        text = await go(stage, pilot, "escape", "down", "enter", "4")
        assert "starting on GPU 5" in text
        assert "TTFT p95 412 ms" in text
        assert "ready in 94.2 s" not in text


async def test_the_gpu_tab_shows_the_workers_own_gpus() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "enter", "6")
        assert "GPU 0  NVIDIA H200" in text
        assert "GPU 1" in text
        assert "GPU 2" not in text
        assert "held down by" in text
    stage = Stage(LabFleet(gpus=0))
    async with stage.app.run_test(size=ROW) as pilot:
        assert "no GPU: the NVIDIA driver" in await go(stage, pilot, "enter", "6")


async def test_tab_goes_round_the_tabs() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "enter", "tab")
        assert top(stage).tab == 1
        await go(stage, pilot, "shift+tab", "shift+tab")
        assert top(stage).tab == 5


async def test_n_goes_from_failure_to_failure_of_the_log() -> None:
    stage = Stage()
    stage.client.log_text = TROUBLED
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "L")
        assert "after 59" in text
        assert "EngineCore failed" not in text
        text = await go(stage, pilot, "n")
        assert "EngineCore failed" in text
        await go(stage, pilot, "y")
        assert stage.app.clipboard.startswith("ERROR 11-20 12:05:01")
        text = await go(stage, pilot, "n")
        assert "the second failure" in text
        assert "EngineCore failed" not in "".join(text.splitlines()[:-1])
        assert "EngineCore failed" in await go(stage, pilot, "n")
        assert "the second failure" in await go(stage, pilot, "N")


async def test_a_log_is_filtered_by_words_and_level_and_shows_failures_first() -> None:
    stage = Stage()
    stage.client.log_text = TROUBLED
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "L", "v")
        assert "is preempted" in text
        assert "EngineCore failed" in text
        assert "Avg generation" not in text
        text = await go(stage, pilot, "v")
        assert "is preempted" not in text
        assert 'File "core.py", line 700' in text
        text = await go(stage, pilot, "v", "slash", "s", "e", "c", "o", "n", "d", "enter")
        assert "the second failure" in text
        assert "/second · following · 1 of 245 lines" in text
        text = await go(stage, pilot, "escape", "x")
        first = text.splitlines()[4]
        assert "EngineCore failed" in first
        assert "failures first" in text
        assert "after 59" in await go(stage, pilot, "escape")


async def test_a_log_without_a_failure_says_so() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "enter", "n")
        assert "no failure in the lines of the log that are here" in text


async def test_events_are_filtered_and_lead_to_their_worker() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "E")
        assert "11-20 12:01:14  ● llama-70b-1" in text
        text = await go(stage, pilot, "v")
        assert "llama-70b-1" not in text
        assert "out-of-memory" in text
        text = await go(stage, pilot, "v", "v", "slash", "q", "w", "e", "n", "enter")
        assert "llama-70b-1" not in text
        assert "qwen3-32b-2" in text
        await go(stage, pilot, "escape", "n")
        assert top(stage).listing.item.subject == "phi-4-1"
        assert "phi-4-1 is no model or worker of the fleet now" in await go(stage, pilot, "enter")
        await go(stage, pilot, "home", "down", "enter")
        assert stage.text().startswith("  llama-70b-1")


async def test_new_events_come_in_at_the_end_while_it_follows() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "E")
        page = top(stage)
        new = Event(10, "2026-11-20T12:05:00+00:00", "info", "phi-4", "one more")
        page.arrived("events", [new])
        await pilot.pause()
        assert page.listing.item == new
        await go(stage, pilot, "home")
        page.arrived("events", [replace(new, seq=11, text="another")])
        await pilot.pause()
        assert page.listing.cursor == 0
        assert "another" in stage.text()


async def test_the_audit_tells_who_asked_for_what_and_what_was_refused() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "E", "2")
        assert "scale qwen3-32b workers=2" in text
        assert 'no model "phi-5"; did you mean "phi-4"?' in text
        await go(stage, pilot, "home", "n")
        assert top(stage).listing.item.outcome != "ok"


async def test_history_asks_for_the_span_the_subject_and_the_one_before() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "down", "H")
        asked = stage.client.questions[-1]
        assert (asked.subject, asked.until - asked.since, asked.compare) == ("qwen3-32b", 900, True)
        for words in ("TTFT", "■ p50 190", "p95 before", "▲ 23.5 %", "observed 96 %", "~61.2 ms",
                      "≤50 ms", "failed, out-of-memory"):  # fmt: skip
            assert words in text
        text = await go(stage, pilot, "3", "c")
        asked = stage.client.questions[-1]
        assert (asked.until - asked.since, asked.step, asked.compare) == (2_592_000, 10_800, False)
        assert "before" not in text
        assert "■ p50 18 ms" in await go(stage, pilot, "down")
        await go(stage, pilot, "o")
        assert stage.client.questions[-1].subject == "qwen3-32b-1"
        await go(stage, pilot, "y")
        assert stage.app.clipboard.startswith("qwen3-32b-1  itl  p50 18 ms")


async def test_a_span_is_asked_for_again_only_when_it_is_old() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "H")
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 1))
        top(stage).read_on()
        await stage.settled(pilot)
        assert len(stage.client.questions) == 1
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 6))
        top(stage).read_on()
        await stage.settled(pilot)
        assert len(stage.client.questions) == 2


async def test_a_plan_tells_gpus_memory_time_and_what_it_waits_for() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "end", "P")
        for words in ("it can start, after what it waits for", "GPU 4  NVIDIA H200",
                      "vLLM claims 127 GiB", "94 s", "qwen3-32b-2", "27.4 GiB"):  # fmt: skip
            assert words in text
        assert stage.client.commands == []
        await go(stage, pilot, "l")
        assert stage.client.commands == [("load", {"model": "phi-4"})]


async def test_the_fleet_file_shows_each_problem_under_its_line() -> None:
    stage = Stage()
    stage.client.fleet_file = FILE
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "F")
        lines = text.splitlines()
        at = next(i for i, line in enumerate(lines) if "max_modle_len = 32768" in line)
        assert 'did you mean "max_model_len"?' in lines[at + 1]
        assert "✖ 1 problem" in lines[0]
        await go(stage, pilot, "n")
        assert top(stage).listing.item.trouble


@pytest.mark.parametrize("key", ["E", "H", "P", "F"])
async def test_a_daemon_that_is_gone_is_one_line_on_every_screen(key: str) -> None:
    stage = Stage()

    def gone() -> None:
        raise NoDaemon("no daemon answers on control.sock")

    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        stage.app.connect = gone  # type: ignore[assignment]
        assert "no daemon answers on control.sock" in await go(stage, pilot, "end", key)


async def test_a_look_that_is_refused_says_why_in_its_place() -> None:
    stage = Stage()
    stage.client.refuse = ConsoleError("this daemon is of an older version")
    stage.client.looks_refused = True
    async with stage.app.run_test(size=ROW) as pilot:
        assert "of an older version" in await go(stage, pilot, "enter", "2")


async def test_screens_follow_the_size_of_the_terminal() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "down", "H")
        await pilot.resize_terminal(*TABS)
        await stage.settled(pilot)
        assert "p95 before" not in stage.text()
        assert "TTFT" in stage.text()


async def test_a_name_with_markup_is_shown_as_it_is_in_a_filter() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "L", "slash", "left_square_bracket", "x", "enter")
        assert "/[x · following · 0 of 120 lines" in text
