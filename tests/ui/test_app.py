"""The console as a whole, over a fake fleet: keys, layouts, commands, a daemon that goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event as Flag

import pytest
from rich.style import Style
from textual.color import Color
from textual.pilot import Pilot
from textual.renderables.background_screen import BackgroundScreen

from tests.ui.playing import MOMENT, Stage
from tests.ui.scripted import GoneClient, LabFleet, ScriptedClient
from vllm_console.errors import ConsoleError, InvalidInput, NoDaemon
from vllm_console.snapshot import Alert
from vllm_console.ui.app import run_console
from vllm_console.ui.key_line import live_keys
from vllm_console.ui.panel import Panel
from vllm_console.ui.screens import STYLES
from vllm_console.ui.screens.confirm import Confirm, consequence
from vllm_console.ui.screens.dashboard import Dashboard
from vllm_console.ui.screens.help import Help
from vllm_console.ui.screens.modal import _tinted
from vllm_console.ui.screens.worker import WorkerDetail
from vllm_console.ui.theme_files import chosen

ROW, GRID, TABS = (160, 48), (100, 30), (80, 24)


async def go(stage: Stage, pilot: Pilot[None], *keys: str) -> str:
    """Show the console, press keys, and read the screen."""
    await stage.shown(pilot)
    for key in keys:
        await pilot.press(key)
    await pilot.pause()
    return stage.text()


def on_top(stage: Stage) -> type:
    return type(stage.app.screen)


def selected(stage: Stage) -> str | None:
    return stage.app.board.selected


async def test_the_first_frame_has_live_numbers_in_all_four_panels() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot)
    for words in ("¹engines", "²performance", "³batching", "⁴scaling", "1,122", "▲ generated",
                  "tokens a step", "GPUs", "1 of 6", "2 alerts", "12:04:31", "q quit"):  # fmt: skip
        assert words in text


async def test_each_snapshot_is_drawn_and_the_graphs_move_on() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 1))
        text = stage.text()
    assert "12:04:32" in text
    assert "1,122" not in text.splitlines()[4]


async def test_arrows_and_letters_move_the_selection() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "down", "j", "up", "k", "down")
        assert selected(stage) == "model/qwen3-32b"
        assert "2 of 6" in text
        await pilot.press("end")
        assert selected(stage) == "model/phi-4"
        await pilot.press("home")
        assert selected(stage) == "model/llama-70b"


async def test_a_click_on_a_row_selects_it() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        await pilot.click("#engines", offset=(6, 6))
        await pilot.pause()
        assert selected(stage) == "model/mistral-24b"


async def test_a_click_on_a_key_presses_it() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        line = (await go(stage, pilot)).splitlines()[-1]
        await pilot.click("#keys", offset=(line.index("z zoom"), 0))
        await pilot.pause()
        assert stage.app.screen.has_class("-zoom")
        line = stage.text().splitlines()[-1]
        await pilot.click("#keys", offset=(line.index("u unload") - 1, 0))
        assert stage.app.screen is stage.app.screen_stack[0]
        await pilot.click("#keys", offset=(line.index("? help"), 0))
        await pilot.pause()
        assert isinstance(stage.app.screen, Help)


async def test_a_click_on_an_alert_or_an_event_goes_to_its_model() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        before = selected(stage)
        await pilot.click("#alerts", offset=(3, 0))
        await pilot.pause()
        assert selected(stage) != before
        snapshot = stage.app.view.snapshot
        assert snapshot is not None
        rows = [event.subject for event in snapshot.events[:5]]
        await pilot.click("#events", offset=(5, rows.index("mistral-24b-1")))
        await pilot.pause()
        assert selected(stage) == "model/mistral-24b"


async def test_numbers_focus_a_panel_and_zoom_shows_it_alone() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "3")
        assert stage.app.focused is stage.app.screen.query_one("#batching")
        text = await go(stage, pilot, "z")
        assert "tokens a step" in text
        assert "optimization" not in text
        text = await go(stage, pilot, "1")
        assert "optimization" in text
        assert "tokens a step" not in text
        text = await go(stage, pilot, "escape")
        assert "optimization" in text
        assert "tokens a step" in text


async def test_a_narrow_terminal_has_tabs() -> None:
    stage = Stage()
    async with stage.app.run_test(size=TABS) as pilot:
        text = await go(stage, pilot)
        assert "¹engines  ²performance  ³batching  ⁴scaling" in text
        assert "z zoom" not in text
        assert "▲ generated" not in text
        text = await go(stage, pilot, "2")
        assert "▲ generated" in text
        shown = [panel.spec.name for panel in stage.app.screen.query(Panel) if panel.display]
        assert shown == ["performance"]


async def test_panels_that_are_not_displayed_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = Panel.draw

    def noted(panel: Panel, *args: object) -> object:
        drawn.append(panel.spec.name)
        return draw(panel, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Panel, "draw", noted)
    stage = Stage()
    async with stage.app.run_test(size=TABS) as pilot:
        await go(stage, pilot)
        drawn.clear()
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 1))
    assert set(drawn) == {"engines"}


async def test_the_layout_follows_the_terminals_size() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        for size, layout in ((GRID, "grid"), (TABS, "tabs"), (ROW, "row")):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert {p.layout_name for p in stage.app.screen.query(Panel)} == {layout}
            assert "llama-70b" in stage.text()
        await pilot.press("3")
        await pilot.resize_terminal(58, 14)
        await pilot.pause()
        assert stage.text().split() == ["too", "small:", "58x14,", "needs", "60x16"]
        await pilot.resize_terminal(*TABS)
        await pilot.pause()
        assert "running" in stage.text()
        focused = stage.app.screen.focused
        assert isinstance(focused, Panel)
        assert focused.spec.name == "batching"


async def test_every_gpu_is_seen_at_100x30() -> None:
    stage = Stage()
    async with stage.app.run_test(size=GRID) as pilot:
        text = await go(stage, pilot)
    below = text.split("⁴scaling")[1]
    busy = [line.split("│")[-2].split() for line in below.splitlines() if "━" in line]
    assert sorted(word for row in busy for word in row if word in "01234567") == list("01234567")


async def test_letters_narrow_the_list_and_escape_shows_all_again() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "slash", "q", "w", "x")
        assert "nothing matches “qwx”" in text
        assert "0 of 4" in text
        text = await go(stage, pilot, "backspace", "enter")
        assert selected(stage) == "model/qwen3-32b"
        assert "/qw  1 of 3" in text
        assert "q quit" in text
        await go(stage, pilot, "down", "escape")
        assert stage.app.board.filter == ""
        assert selected(stage) == "worker/qwen3-32b-1"
        await go(stage, pilot, "slash", "p", "h", "i", "escape")
        assert stage.app.board.filter == ""
        assert stage.app.is_running


async def test_an_exclamation_mark_goes_from_alert_to_alert() -> None:
    stage = Stage(LabFleet(fourth="failed"))
    async with stage.app.run_test(size=ROW) as pilot:
        assert "! goes there" in await go(stage, pilot)
        assert "↵ details and log   ! next" in await go(stage, pilot, "exclamation_mark")
        assert selected(stage) == "model/phi-4"
        await go(stage, pilot, "exclamation_mark")
        assert selected(stage) == "model/qwen3-32b"
        await go(stage, pilot, "slash", "l", "l", "a", "enter", "exclamation_mark")
        assert selected(stage) == "model/phi-4"
        assert stage.app.board.filter == ""


async def test_an_alert_about_no_model_leads_nowhere_and_says_so() -> None:
    fleet = LabFleet()
    first = replace(fleet.at(MOMENT), alerts=(Alert("warn", "GPU 2", "84 °C"),))
    stage = Stage(fleet, first=first)
    async with stage.app.run_test(size=ROW) as pilot:
        assert "no alert is about a model" in await go(stage, pilot, "exclamation_mark")


@pytest.mark.parametrize("key", ["u", "question_mark"])
async def test_the_dashboard_goes_on_behind_a_box(key: str) -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, key)
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 1))
        lines = stage.app.export_screenshot(simplify=True)
        assert "12:04:32" in lines
        assert "12:04:31" not in lines.split("¹")[0]


@pytest.mark.parametrize("keys", [(), ("u",), ("question_mark",), ("slash", "x"), ("enter",)])
async def test_ctrl_c_quits_from_everywhere(keys: tuple[str, ...]) -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, *keys, "ctrl+c")
    assert stage.app.return_code == 0
    assert stage.client.closed


async def test_load_asks_the_daemon_and_its_answer_is_one_line() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "end", "l")
        await stage.settled(pilot)
        text = stage.text()
    assert stage.client.commands == [("load", {"model": "phi-4"})]
    assert "● loading phi-4: accepted" in text


@pytest.mark.parametrize(("key", "verb"), [("u", "unload"), ("r", "restart")])
async def test_what_destroys_asks_first(key: str, verb: str) -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, key)
        assert on_top(stage) is Confirm
        assert f"{verb} llama-70b?" in text
        assert "229 in flight; its worker drains" in text
        for no in ("n", "N", "escape", "enter"):
            await pilot.press(no)
            await pilot.pause()
            assert on_top(stage) is Dashboard
            await pilot.press(key)
        assert stage.client.commands == []
        await pilot.press("y")
        await stage.settled(pilot)
    assert stage.client.commands == [(verb, {"model": "llama-70b"})]


async def test_a_key_that_is_not_legal_says_why_and_does_nothing() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        assert "llama-70b is ready already" in await go(stage, pilot, "l")
        text = await go(stage, pilot, "end", "u")
        assert "phi-4 is stopped: there is nothing to unload" in text
        assert "phi-4 is stopped · l loads it" in await go(stage, pilot, "r")
        stage.clock.now += 10
        stage.app.tick()
        await pilot.pause()
        assert "q quit" in stage.text()
    assert stage.client.commands == []


async def test_a_refused_command_shows_the_daemons_own_line() -> None:
    stage = Stage()
    stage.client.refuse = ConsoleError("no GPU is free for phi-4; unload another model first")
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "end", "l")
        await stage.settled(pilot)
        assert "✖ load phi-4: no GPU is free for phi-4" in stage.text()


async def test_a_read_only_console_has_no_key_that_changes_the_fleet() -> None:
    stage = Stage(readonly=True)
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "l", "u", "r")
        assert "unload" not in text.splitlines()[-1]
        assert "restart" not in text.splitlines()[-1]
        await go(stage, pilot, "enter", "u", "r", "l")
        await stage.settled(pilot)
        assert isinstance(stage.app.screen, WorkerDetail)
        assert "restart  " not in stage.text().splitlines()[-1]
    assert stage.client.commands == []


async def test_help_is_made_of_the_live_keys() -> None:
    stage = Stage(readonly=True)
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "question_mark")
        assert on_top(stage) is Help
        dashboard = stage.app.screen_stack[0]
        for key, meaning in live_keys(dashboard, hidden=True):
            assert f"{key}  {meaning}" in text
        assert "drain and stop" not in text
        await pilot.press("escape")
        assert on_top(stage) is Dashboard


async def test_a_paused_picture_stands_still_and_misses_nothing() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "space")
        assert "‖ paused" in text
        later = stage.client.fleet.at(MOMENT + 1)
        before = len(stage.app.board.trends.tail("fleet", "running", 9999))
        stage.clock.now += 30
        stage.client.push(later, stage.client.fleet.at(MOMENT + 2))
        await stage.until(pilot, lambda: len(stage.reader.pending) == 2)
        stage.app.tick()
        await pilot.pause()
        assert "12:04:31" in stage.text()
        text = await go(stage, pilot, "space")
        assert "paused" not in text.splitlines()[0]
        assert "12:04:33" in text
        assert len(stage.app.board.trends.tail("fleet", "running", 9999)) == before + 2


async def test_a_lost_daemon_is_said_and_its_return_is_drawn() -> None:
    again = Flag()
    stage = Stage(wait=lambda _: again.wait(5))
    first = ScriptedClient(history=10)
    stage.client, second = first, stage.client
    clients = iter([first, second])
    stage.reader._connect = lambda: next(clients)
    first.push(first.fleet.at(MOMENT))
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        first.push(NoDaemon("no daemon answers on control.sock"))
        await stage.until(pilot, lambda: stage.reader.lost is not None)
        stage.clock.now += 12
        stage.app.tick()
        await pilot.pause()
        text = stage.text()
        assert "▲ 12 s old" in text
        assert "▲ no daemon  no daemon answers on control.sock  · trying again" in text
        assert "llama-70b" in text
        again.set()
        await stage.until(pilot, lambda: stage.app.view.old_s is None)
        await pilot.pause()
        text = stage.text()
        assert "trying again" not in text
        assert "12:04:31" in text


async def test_a_daemon_that_is_not_there_at_first_is_waited_for() -> None:
    again = Flag()
    stage = Stage(clients=[GoneClient()], wait=lambda _: again.wait(5))
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.until(pilot, lambda: stage.reader.lost is not None)
        stage.app.paint()
        await pilot.pause()
        assert "no daemon answers" in stage.text()
        again.set()
        assert "llama-70b" in await go(stage, pilot)


async def test_a_silent_daemon_makes_the_picture_old() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        stage.clock.now += 7
        stage.app.tick()
        await pilot.pause()
        assert "▲ 7 s old" in stage.text()


async def test_enter_shows_the_worker_and_its_log() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "down", "enter")
        await stage.settled(pilot)
        text = stage.text()
        assert text.startswith("  qwen3-32b-1   ● ready")
        for words in ("settings", "--max-num-batched-tokens 8192", "following · 120 lines",
                      "1219.0 tokens/s"):  # fmt: skip
            assert words in text
        text = await go(stage, pilot, "home")
        assert "1 of 120 · f follows" in text
        assert "1101.0 tokens/s" in text
        text = await go(stage, pilot, "pagedown", "up", "right", "f", "left")
        assert "following" in text
        await go(stage, pilot, "o")
        await stage.settled(pilot)
        assert stage.text().startswith("  qwen3-32b-2   ◐ starting")
        await go(stage, pilot, "escape")
        assert "¹engines" in stage.text()
        assert selected(stage) == "model/qwen3-32b"


async def test_the_log_goes_on_where_it_ended_and_a_scrolled_one_stays() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "enter")
        await stage.settled(pilot)
        screen = stage.app.screen
        assert isinstance(screen, WorkerDetail)
        stage.client.log_text += "\nINFO 11-20 12:05:00 [x.py:1] one more line\n"
        screen.read_on()
        await stage.settled(pilot)
        assert "one more line" in stage.text()
        top = (await go(stage, pilot, "home")).splitlines()[14:20]
        stage.client.log_text += "INFO 11-20 12:05:01 [x.py:1] and another\n"
        screen.read_on()
        await stage.settled(pilot)
        assert "and another" not in stage.text()
        assert stage.text().splitlines()[14:20] == top
        assert "and another" in await go(stage, pilot, "end")


async def test_a_log_that_starts_anew_is_read_anew() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "enter")
        await stage.settled(pilot)
        stage.client.log_text = "INFO 11-20 12:06:00 [x.py:1] a new process\n"
        screen = stage.app.screen
        assert isinstance(screen, WorkerDetail)
        screen.read_on()
        await stage.settled(pilot)
        await stage.settled(pilot)
        text = stage.text()
        assert "a new process" in text
        assert "1219.0 tokens/s" not in text


async def test_a_failed_workers_screen_shows_cause_and_remedy() -> None:
    stage = Stage(LabFleet(fourth="failed"))
    async with stage.app.run_test(size=TABS) as pilot:
        await go(stage, pilot, "end", "enter")
        await stage.settled(pilot)
        text = stage.text()
    for words in ("phi-4-1", "✖ failed", "✖ out-of-memory", "→ lower gpu_memory_utilization"):
        assert words in text


async def test_a_log_that_cannot_be_read_says_why_and_shows_what_the_failure_kept() -> None:
    fleet = LabFleet(fourth="failed")
    snapshot = fleet.at(MOMENT)
    phi = snapshot.models[3]
    gone = replace(phi, workers=(replace(phi.workers[0], id="nobody-1"),))
    stage = Stage(fleet, first=replace(snapshot, models=(*snapshot.models[:3], gone)))
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "end", "enter")
        await stage.settled(pilot)
        assert "torch.OutOfMemoryError: CUDA out of memory." in stage.text()


async def test_a_stopped_models_screen_has_no_log_and_says_so() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "end", "enter")
        assert "no worker, so no log" in text
        assert "○ stopped · l loads it" in text
        await go(stage, pilot, "l")
        await stage.settled(pilot)
    assert stage.client.commands == [("load", {"model": "phi-4"})]


async def test_an_empty_fleet_has_no_model_to_act_on() -> None:
    stage = Stage(LabFleet(models=0))
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "down", "u", "r", "l")
        assert "no models yet" in text
        assert "no model is selected" in text
        await go(stage, pilot, "enter")
        assert on_top(stage) is Dashboard


async def test_a_mistake_in_a_panel_file_leaves_the_others_running(tmp_path: Path) -> None:
    (tmp_path / "batching.toml").write_text('[[blocks]]\nblock = "occupied"\n')
    stage = Stage(panels=tmp_path)
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot)
    assert "this panel's file has a mistake" in text
    assert "▲ generated" in text


async def test_a_fast_daemon_is_not_painted_faster_than_asked_for() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        stage.client.push(stage.client.fleet.at(MOMENT + 1))
        await stage.until(
            pilot, lambda: bool(stage.app.board.snapshot and "32" in stage.app.board.snapshot.at)
        )
        await pilot.pause()
        assert "12:04:31" in stage.text().splitlines()[0]
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 2))
        assert "12:04:33" in stage.text().splitlines()[0]


async def test_names_with_markup_and_escapes_are_shown_as_they_are() -> None:
    stage = Stage()
    snapshot = stage.client.fleet.at(MOMENT)
    odd = replace(snapshot.models[3], name="[bold]x\x1b[2J")
    first = replace(snapshot, models=(odd,))
    stage = Stage(first=first)
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.until(pilot, lambda: bool(stage.app.board.snapshot))
        text = await go(stage, pilot)
    assert "[bold]x" in text
    assert "\x1b" not in text


async def test_quitting_leaves_with_0_and_closes_the_stream() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "q")
    assert stage.app.return_code == 0
    assert stage.client.closed


def test_a_theme_or_folder_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    assert chosen("nord", tmp_path).name == "nord"
    with pytest.raises(InvalidInput, match='no theme "nrod"; did you mean "nord"'):
        chosen("nrod", tmp_path)
    with pytest.raises(InvalidInput, match="is not a folder"):
        run_console(ScriptedClient, panels=tmp_path / "no")


def test_the_question_counts_who_is_hit() -> None:
    models = LabFleet().at(MOMENT).models
    assert consequence("unload", models[1]) == "192 in flight; its 2 workers drain, then stop"
    assert consequence("restart", models[2]) == (
        "nothing in flight; its worker drains, then stops and starts again"
    )
    assert consequence("restart", models[3]) == "no worker of it runs now"


async def test_screens_that_were_made_ready_read_nothing_when_they_are_opened() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        stage.app.warm()
        await stage.settled(pilot)
        before = dict(stage.app.stylesheet.source)
        for key in ("question_mark", "E", "H", "enter", "P", "F", "u"):
            await pilot.press(key)
            await stage.settled(pilot)
            await pilot.press("escape")
        files = {read_from for read_from in stage.app.stylesheet.source if not read_from[1]}
        assert files == {read_from for read_from in before if not read_from[1]}
        assert len(files) == len(STYLES)


async def test_the_screen_under_a_box_is_tinted_as_textual_tints_it() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        segments = [s for strip in stage.app.screen._compositor.render_strips() for s in strip]
        tint = Color.parse("#0b0f14").with_alpha(0.55)
        wanted = [s.style for s in BackgroundScreen.process_segments(segments, tint)]
        assert [_tinted(s.style or Style(), tint) for s in segments] == wanted
        await pilot.press("question_mark")
        await stage.settled(pilot)
        assert "¹engines" in stage.text()
