"""Time travel: the same four panels as they were, told plainly, with nothing to change."""

from __future__ import annotations

from datetime import timedelta
from threading import Event as Flag

import pytest
from textual.events import Key
from textual.pilot import Pilot

from tests.ui.playing import MOMENT, Stage
from tests.ui.scripted import NOON, LabFleet, ScriptedClient
from vllm_console.snapshot import Daemon, Snapshot
from vllm_console.ui.blocks import fleet_line
from vllm_console.ui.format import date_and_clock
from vllm_console.ui.rows import text_of
from vllm_console.ui.travel import Found, Travel, look_up
from vllm_console.ui.view import View

ROW, TABS = (160, 48), (80, 24)


async def there(stage: Stage, pilot: Pilot[None], *keys: str) -> str:
    """Press keys, wait until the past that they ask for is shown, and read the screen."""
    for key in keys:
        await pilot.press(key)
    await stage.settled(pilot)
    await stage.until(pilot, lambda: not stage.app.journey.looking)
    await pilot.pause()
    return stage.text()


async def test_a_bracket_goes_back_by_what_the_graphs_span_and_forth_again() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        now = stage.text()
        back = await there(stage, pilot, "left_square_bracket")
        assert "PAST 2026-11-20 12:03:19 · esc returns" in back
        assert "¹engines" in back
        assert back.splitlines()[4] != now.splitlines()[4]
        await there(stage, pilot, "left_square_bracket")
        assert "PAST 2026-11-20 12:02:07" in stage.text()
        forth = await there(stage, pilot, "right_square_bracket")
        assert forth == back
        assert await there(stage, pilot, "right_square_bracket") == now


async def test_graphs_in_the_past_end_at_that_moment() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        newest = stage.app.view.trend("generation_tokens_per_s", 20)
        await there(stage, pilot, "left_square_bracket")
        past = stage.app.view.trend("generation_tokens_per_s", 20)
        assert past[-1] is not None
        assert past != newest


async def test_the_history_of_a_past_moment_ends_with_that_moment() -> None:
    for recorded in (None, "history.sqlite"):
        stage = Stage(recorded=recorded)
        async with stage.app.run_test(size=ROW) as pilot:
            await stage.shown(pilot)
            await there(stage, pilot, "left_square_bracket")
            text = await there(stage, pilot, "H")
            assert "PAST 2026-11-20 12:03:19" in text
            (question,) = stage.client.questions
            assert question.until == (NOON - timedelta(seconds=72)).timestamp()
            assert question.since == question.until - 900


async def test_what_is_not_recorded_is_a_dash_and_not_what_is_so_now() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        assert "GPU free   3 of 8" in stage.text()
        text = await there(stage, pilot, "left_square_bracket")
        assert "GPU free   – of 8" in text
        assert "nodes   – active" in text
        assert "SLA        not recorded" in text
        assert "last 5 min" not in text
        assert "no request yet" not in text
        assert "strategies" not in text


async def test_escape_returns_to_now_from_any_depth() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        await there(stage, pilot, "z", "left_square_bracket", "left_square_bracket")
        text = await there(stage, pilot, "escape")
        assert "PAST" not in text
        assert "12:04:31" in text
        assert stage.app.screen.has_class("-zoom")


async def test_what_comes_meanwhile_is_there_on_return_and_not_shown_before() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        past = await there(stage, pilot, "left_square_bracket")
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 1))
        assert stage.text() == past
        assert "12:04:32" in await there(stage, pilot, "escape")


async def test_t_takes_a_time_as_people_write_it() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        assert "yesterday 14:00" in await there(stage, pilot, "t")
        text = await there(stage, pilot, *"-40", "enter")
        assert stage.client.asked == ["-40"]
        assert "PAST 2026-11-20 12:03:51" in text


@pytest.mark.parametrize(
    ("first", "words"),
    [("t", "/20t"), ("slash", "qt/")],
)
async def test_what_is_typed_in_the_same_breath_is_for_the_line(first: str, words: str) -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        for key in (first, *words, "enter"):
            name = "slash" if key == "/" else key
            stage.app.post_message(Key(name, "/" if name == "slash" else key))
        await there(stage, pilot)
        assert stage.client.commands == []
        assert stage.client.asked == ([words] if first == "t" else [])
        assert stage.app.board.filter == (words if first == "slash" else "")


async def test_a_time_that_is_none_is_one_line_and_the_picture_stays() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        text = await there(stage, pilot, "t", *"tea", "enter")
        assert '✖ not a time: "tea"' in text
        assert "PAST" not in text
        await there(stage, pilot, "t", *"later", "escape")
        assert stage.client.asked == ["tea"]


async def test_before_the_first_record_it_says_so_and_stays() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        text = await there(stage, pilot, "left_curly_bracket")
        assert "✖ nothing is recorded of" in text
        assert "12:04:31" in text


async def test_forth_from_now_there_is_nothing() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        assert "this is the newest there is" in await there(stage, pilot, "right_square_bracket")
        assert stage.client.asked == []


async def test_many_keys_are_one_look_up_of_where_they_lead() -> None:
    stage = Stage()
    stage.client.held = Flag()
    async with stage.app.run_test(size=TABS) as pilot:
        await stage.shown(pilot)
        span = stage.app.screen.query_one("#engines").span(stage.app.view)  # type: ignore[attr-defined]
        for _ in range(1, 4):
            await pilot.press("left_square_bracket")
        assert "looking up" in stage.text()
        stage.client.held.set()
        await stage.until(pilot, lambda: stage.app.board.past is not None)
        assert len(stage.client.asked) == 2
        snapshot = stage.app.view.snapshot
        assert snapshot is not None
        wanted = stage.client.fleet.at(MOMENT - round(3 * span))
        assert snapshot.at == wanted.at


async def test_escape_while_looking_up_stays_now() -> None:
    stage = Stage()
    stage.client.held = Flag()
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        await pilot.press("left_square_bracket", "escape")
        stage.client.held.set()
        await stage.settled(pilot)
        assert stage.app.board.past is None
        assert "PAST" not in stage.text()


@pytest.mark.parametrize("key", ["l", "u", "r"])
async def test_commands_are_refused_in_the_past(key: str) -> None:
    stage = Stage(LabFleet(fourth="failed"))
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        await there(stage, pilot, "end", "left_square_bracket")
        text = await there(stage, pilot, key)
        assert "this is the past: nothing can be changed in it" in text
        assert stage.client.commands == []


async def test_a_recording_says_so_grows_no_older_and_takes_no_command() -> None:
    stage = Stage(recorded="history.sqlite")
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        stage.clock.now += 60
        stage.app.tick()
        text = await there(stage, pilot, "u")
        assert "RECORDED 2026-11-20 12:04:31 · history.sqlite" in text
        assert "old" not in text.splitlines()[0]
        assert "this is a recording: nothing can be changed" in text
        assert "PAST 2026-11-20 12:03:19" in await there(stage, pilot, "left_square_bracket")
        assert "RECORDED" in await there(stage, pilot, "escape")


async def test_a_replay_may_begin_at_a_moment() -> None:
    stage = Stage(recorded="history.sqlite", begin="-40")
    async with stage.app.run_test(size=ROW) as pilot:
        await stage.shown(pilot)
        await stage.until(pilot, lambda: stage.app.board.past is not None)
        await pilot.pause()
        assert "PAST 2026-11-20 12:03:51" in stage.text()


@pytest.mark.parametrize("width", [60, 80, 120, 240])
def test_the_past_is_told_at_every_width(width: int) -> None:
    snapshot = LabFleet().at(MOMENT)
    text = text_of(fleet_line.draw(View(snapshot, past=True, lost="gone"), width, 1))
    assert f"PAST {date_and_clock(snapshot.at)} · esc returns" in text


def test_a_damaged_time_is_a_dash() -> None:
    view = View(Snapshot("then", "lab", Daemon(True)), past=True)
    assert "PAST – · esc returns" in text_of(fleet_line.draw(view, 80, 1))


def test_the_picture_comes_with_the_selected_graphs_before_all_others() -> None:
    client = ScriptedClient()
    begun, whole = look_up(lambda: client, "-40", ("fleet", "model/phi-4"))
    assert (begun.last, whole.last) == (False, True)
    assert begun.past is not None
    assert whole.past is not None
    assert begun.past.snapshot is whole.past.snapshot
    metric = "generation_tokens_per_s"
    assert begun.past.trends.tail("fleet", metric, 5) != []
    assert begun.past.trends.tail("model/llama-70b", metric, 5) == []
    for subject in ("fleet", "model/llama-70b", "worker/qwen3-32b-1"):
        assert whole.past.trends.tail(subject, metric, 5) != []
    assert client.closed


def test_a_look_up_that_fails_is_its_reason() -> None:
    (found,) = look_up(ScriptedClient, "tea")
    assert found == Found("tea", reason='not a time: "tea"')


def test_a_look_up_under_way_is_not_over_with_its_first_part() -> None:
    travel = Travel()
    travel.wish("a")
    assert travel.take(Found("a", last=False)) is None
    assert not travel.wish("b")
    assert travel.take(Found("")) == "b"


def test_only_the_newest_wish_is_looked_up() -> None:
    travel = Travel()
    assert travel.wish("a")
    assert not travel.wish("b")
    assert not travel.wish("c")
    assert travel.take(Found("a")) == "c"
    assert travel.take(Found("c")) is None
    travel.drop()
    assert travel.wish("d")
