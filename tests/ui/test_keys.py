"""Keys that act: each does what it says, only where it is legal, and its outcome is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.pilot import Pilot

from tests.ui.playing import MOMENT, Stage
from tests.ui.scripted import LabFleet
from tests.ui.scripted_looks import FILE, HOLDS, PATH
from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Alert, Canary, Event, Snapshot
from vllm_console.ui.console import Console
from vllm_console.ui.palette import commands as palette_commands
from vllm_console.ui.pursuit import FilePursuit, Pursuit
from vllm_console.ui.screens.agree import Agree
from vllm_console.ui.screens.confirm import Confirm
from vllm_console.ui.screens.dashboard import Dashboard
from vllm_console.ui.screens.fleet_file import FleetFilePage
from vllm_console.ui.screens.worker import WorkerDetail
from vllm_console.ui.view import kind_of

ROW = (160, 48)


async def go(stage: Stage, pilot: Pilot[None], *keys: str) -> str:
    """Show the console, press keys, wait for what they set off, and read the screen."""
    await stage.shown(pilot)
    for key in keys:
        await pilot.press(key)
        await stage.settled(pilot)
    return stage.text()


def changed(snapshot: Snapshot, name: str, **facts: object) -> Snapshot:
    """The snapshot with facts of one model changed."""
    models = tuple(
        replace(m, **facts) if m.name == name else m  # type: ignore[arg-type]
        for m in snapshot.models
    )
    return replace(snapshot, models=models)


def last_line(stage: Stage) -> str:
    return stage.text().splitlines()[-1]


async def test_plus_asks_for_one_worker_more_and_minus_asks_back_first() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "down", "plus")
        assert stage.client.commands == [("scale", {"model": "qwen3-32b", "workers": 3})]
        text = await go(stage, pilot, "minus")
        assert isinstance(stage.app.screen, Confirm)
        assert "scale qwen3-32b to 1?" in text
        assert "1 of its 2 workers drains, then stops" in text
        await go(stage, pilot, "y")
        assert stage.client.commands[1:] == [("scale", {"model": "qwen3-32b", "workers": 1})]


async def test_a_number_of_workers_that_the_file_forbids_is_told_not_asked_for() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        assert "llama-70b has 1 to 2 workers: scale.min" in await go(stage, pilot, "minus")
        await stage.push(pilot, changed(stage.client.fleet.at(MOMENT + 1), "phi-4", wanted=1))
        assert "phi-4 has one worker at most" in await go(stage, pilot, "end", "plus")
    assert stage.client.commands == []


async def test_keys_that_would_do_nothing_are_grey_and_say_why_when_pressed() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        row = stage.app.screen.query_one("#keys")._rows[0]  # type: ignore[attr-defined]
        inks = {text.strip(): ink for text, ink in row}
        assert inks["load"] == "dim"
        assert inks["unload"] == "label"
        await go(stage, pilot, "end")
        row = stage.app.screen.query_one("#keys")._rows[0]  # type: ignore[attr-defined]
        inks = {text.strip(): ink for text, ink in row}
        assert inks["load"] == "label"
        assert inks["unload"] == inks["restart"] == "dim"


async def test_sleep_and_wake_are_there_only_for_a_model_that_can() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        assert "sleep" not in last_line(stage)
        assert "llama-70b cannot sleep" in await go(stage, pilot, "s")
        able = changed(stage.client.fleet.at(MOMENT + 1), "llama-70b", can_sleep=True)
        await stage.push(pilot, able)
        stage.app.say("", "")
        await pilot.pause()
        assert "s sleep" in last_line(stage)
        await go(stage, pilot, "s")
        assert stage.client.commands == [("sleep", {"model": "llama-70b"})]
        assert "llama-70b is ready: it does not sleep" in await go(stage, pilot, "w")


async def test_the_line_tells_that_it_sleeps_and_why_it_does_not_wake() -> None:
    stage = Stage()
    name = "llama-70b"

    async def becomes(pilot: Pilot[None], second: int, state: str, reason: str = "") -> str:
        snapshot = stage.client.fleet.at(MOMENT + second)
        workers = tuple(
            replace(worker, state=state, reason=reason or None)
            for model in snapshot.models
            if model.name == name
            for worker in model.workers
        )
        facts = {"can_sleep": True, "state": state, "ready": 0, "workers": workers}
        await stage.push(pilot, changed(snapshot, name, **facts))
        return last_line(stage)

    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        await becomes(pilot, 1, "ready")
        assert "putting to sleep llama-70b: accepted" in await go(stage, pilot, "s")
        await becomes(pilot, 2, "draining", "goes to sleep")
        assert name in stage.app.board.pursued
        assert "● llama-70b sleeps" in await becomes(pilot, 3, "asleep")
        assert stage.app.board.pursued == {}
        assert "llama-70b sleeps · w wakes it" in await go(stage, pilot, "l")
        assert "waking llama-70b: accepted" in await go(stage, pilot, "w")
        await becomes(pilot, 4, "starting", "wakes up")
        assert name in stage.app.board.pursued
        no_room = "cannot wake: GPU 0 has 3.0 GB free"
        told = await becomes(pilot, 5, "asleep", no_room)
        assert f"▲ llama-70b is asleep: {no_room}" in told
        assert stage.app.board.pursued == {}
        await becomes(pilot, 6, "asleep")
        await go(stage, pilot, "w")
        assert "● llama-70b is ready" in await becomes(pilot, 7, "ready")
        await go(stage, pilot, "s")
        await becomes(pilot, 8, "draining")
        told = await becomes(pilot, 9, "ready", "did not go to sleep: no")
        assert "▲ llama-70b is ready: did not go to sleep: no" in told
    verbs = ["sleep", "wake", "wake", "sleep"]
    assert stage.client.commands == [(verb, {"model": name}) for verb in verbs]


async def test_acknowledged_alerts_stay_hidden_until_they_change() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        assert "2 alerts" in await go(stage, pilot)
        text = await go(stage, pilot, "a")
        assert "2 alerts hidden until something changes" in text
        assert "! goes there" not in text
        later = stage.client.fleet.at(MOMENT + 1)
        moved = Alert("warn", "qwen3-32b", "TTFT p95 433 ms > 350 ms")
        await stage.push(pilot, replace(later, alerts=(moved, *later.alerts[1:])))
        assert "433 ms > 350 ms" not in stage.text().splitlines()[1]
        new = Alert("crit", "phi-4", "failed: out-of-memory")
        later = stage.client.fleet.at(MOMENT + 2)
        await stage.push(pilot, replace(later, alerts=(new,)))
        assert "1 alert " in stage.text()
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 3))
        assert "2 alerts" in stage.text()


def test_an_alert_is_the_same_while_only_its_numbers_move() -> None:
    one, two = (Alert("warn", "GPU 2", f"{n} °C") for n in (84, 91))
    assert kind_of(one) == kind_of(two)
    assert kind_of(one) != kind_of(replace(one, level="crit"))


async def test_copy_puts_the_command_or_the_address_on_the_clipboard() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "y")
        assert stage.app.clipboard.startswith("vllm serve meta-llama/Llama-3.3-70B-Instruct")
        assert "● copied: vllm serve meta-llama" in text
        await go(stage, pilot, "down", "down", "y")
        assert stage.app.clipboard == "http://127.0.0.1:8102"


async def test_pin_pins_the_model_and_takes_the_pin_away_again() -> None:
    stage, name = Stage(), "llama-70b"
    async with stage.app.run_test(size=ROW) as pilot:
        assert "pinning llama-70b: accepted" in await go(stage, pilot, "p")
        assert name in stage.app.board.pursued
        pinned = changed(stage.client.fleet.at(MOMENT + 1), name, pinned=True)
        await stage.push(pilot, pinned)
        assert "● llama-70b is pinned: nothing evicts it" in stage.text()
        assert "unpinning llama-70b: accepted" in await go(stage, pilot, "p")
        await stage.push(pilot, stage.client.fleet.at(MOMENT + 2))
        assert "● llama-70b is no longer pinned" in stage.text()
    assert stage.client.commands == [("pin", {"model": name}), ("unpin", {"model": name})]


async def test_an_edited_file_is_checked_then_its_plan_is_shown_and_agreed_to() -> None:
    stage = Stage()
    opened: list[str] = []

    def editor(path: str) -> None:
        opened.append(path)
        stage.client.fleet_file = HOLDS

    stage.app.run_editor = editor
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "e")
        await stage.settled(pilot)
        assert opened == [PATH]
        assert isinstance(stage.app.screen, Agree)
        text = stage.text()
        assert "~ qwen3-32b" in text
        assert "options.max_num_seqs: 128 → 256" in text
        await go(stage, pilot, "y")
        assert stage.client.commands == [("apply", {"digest": "d1gest", "wait": False})]
        assert "● applying the fleet file: accepted" in stage.text()
        snapshot = stage.client.fleet.at(MOMENT + 1)
        others = Event(10, snapshot.at, "info", "qwen3-32b-3", "starting")
        await stage.push(pilot, replace(snapshot, events=(others, *snapshot.events)))
        assert list(stage.app.board.pursued) == [""]
        done = Event(11, snapshot.at, "warn", "fleet", "fleet file applied: restart qwen3-32b")
        snapshot = stage.client.fleet.at(MOMENT + 2)
        await stage.push(pilot, replace(snapshot, events=(done, others, *snapshot.events)))
        assert "▲ fleet file applied: restart qwen3-32b" in stage.text().splitlines()[-1]
        assert stage.app.board.pursued == {}


async def test_an_edit_that_breaks_the_file_goes_to_the_problem_and_applies_nothing() -> None:
    stage = Stage()

    def editor(path: str) -> None:
        stage.client.fleet_file = FILE

    stage.app.run_editor = editor
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "e")
        await stage.settled(pilot)
        assert isinstance(stage.app.screen, FleetFilePage)
        assert stage.app.screen.listing.item.trouble
        assert "✖ 1 problem: nothing is applied" in stage.text()
        assert "a file with problems is not applied" in await go(stage, pilot, "enter")
    assert stage.client.commands == []


async def test_an_editor_that_does_not_start_is_one_line() -> None:
    stage = Stage()
    stage.app.run_editor = lambda path: "nano: not found; $EDITOR names the editor"
    async with stage.app.run_test(size=ROW) as pilot:
        assert "✖ nano: not found" in await go(stage, pilot, "e")


async def test_a_terminal_that_cannot_be_lent_names_the_file() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        assert f"edit {PATH} in another" in await go(stage, pilot, "e")


async def test_the_row_and_the_line_tell_a_command_until_its_end() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "end", "l")
        assert "loading …" in text
        assert "● loading phi-4: accepted" in text
        snapshot = stage.client.fleet.at(MOMENT + 1)
        phi = snapshot.models[3]
        worker = replace(snapshot.models[0].workers[0], id="phi-4-1")
        up = changed(snapshot, "phi-4", state="ready", wanted=1, ready=1, workers=(worker,))
        assert phi.state == "stopped"
        await stage.push(pilot, up)
        assert "● phi-4 is ready" in stage.text()
        assert stage.app.board.pursued == {}


async def test_a_refused_command_leaves_no_trace_in_the_row() -> None:
    stage = Stage()
    stage.client.refuse = ConsoleError("no GPU is free for phi-4")
    async with stage.app.run_test(size=ROW) as pilot:
        text = await go(stage, pilot, "end", "l")
        assert "✖ load phi-4: no GPU is free" in text
        assert "loading …" not in text


def test_what_becomes_of_a_plan_is_what_the_newest_events_say() -> None:
    snapshot = LabFleet().at(MOMENT)

    def told(*events: Event) -> tuple[str, str] | None:
        return FilePursuit(9).outcome(replace(snapshot, events=(*events, *snapshot.events)))

    def of(seq: int, level: str, subject: str, text: str) -> Event:
        return Event(seq, snapshot.at, level, subject, text)

    assert told() is None
    assert told(of(10, "ok", "fleet", "daemon 0.1.0 started")) is None
    assert told(of(10, "warn", "qwen3-32b", "ITL is over its target")) is None
    applied = of(10, "warn", "fleet", "fleet file applied: add a; 1 failed")
    assert told(of(11, "warn", "fleet", "a: no GPU"), applied) == ("warn", applied.text)
    assert told(of(10, "warn", "fleet", "the file has changed")) == ("warn", "the file has changed")


def test_what_becomes_of_a_command_is_told_once_it_is_decided() -> None:
    snapshot = LabFleet(fourth="failed").at(MOMENT)
    old = snapshot.models[3].workers[0].failure
    assert old is not None

    def told(verb: str, *, workers: int | None = None, **facts: object) -> tuple[str, str] | None:
        pursuit = Pursuit(verb, "phi-4", old, workers)
        pursuit.left = verb == "restart" and bool(facts.pop("left", False))
        return pursuit.outcome(changed(snapshot, "phi-4", **facts))

    assert told("load") is None
    again = replace(old, at="2026-11-20T12:30:00+00:00")
    worker = replace(snapshot.models[3].workers[0], failure=again)
    crit = told("load", workers=None) or told("unload", state="stopped")
    assert crit == ("ok", "phi-4 is stopped")
    failed = Pursuit("load", "phi-4", old).outcome(changed(snapshot, "phi-4", workers=(worker,)))
    assert failed is not None
    assert failed[0] == "crit"
    assert "out-of-memory; lower gpu_memory" in failed[1]
    assert told("restart", state="ready", wanted=1, ready=1) is None
    assert told("restart", left=True, state="ready", wanted=1, ready=1) is not None
    assert told("scale", workers=1, state="ready", wanted=1, ready=1) is not None
    assert told("scale", workers=2, state="ready", wanted=2, ready=1) is None
    gone = Pursuit("load", "another", None).outcome(snapshot)
    assert gone == ("info", "another is no longer in the fleet")


def test_what_becomes_of_sleep_and_wake() -> None:
    snapshot = LabFleet().at(MOMENT)
    name = snapshot.models[0].name

    def told(pursuit: Pursuit, state: str, *reasons: str | None) -> tuple[str, str] | None:
        workers = tuple(replace(snapshot.models[0].workers[0], reason=why) for why in reasons)
        return pursuit.outcome(changed(snapshot, name, state=state, workers=workers))

    sleep = Pursuit("sleep", name, None)
    assert told(sleep, "ready", "did not go to sleep: before") is None
    assert told(sleep, "draining", "goes to sleep") is None
    assert told(sleep, "ready") == ("warn", f"{name} is ready")
    assert told(sleep, "ready", None, "no") == ("warn", f"{name} is ready: no")
    assert told(sleep, "asleep") == ("ok", f"{name} sleeps")
    wake = Pursuit("wake", name, None)
    assert told(wake, "asleep", None) is None
    assert told(wake, "starting", "wakes up") is None
    assert told(wake, "asleep", "no room") == ("warn", f"{name} is asleep: no room")
    assert told(wake, "stopped", "ended while it slept") == (
        "warn",
        f"{name} is stopped: ended while it slept",
    )


async def test_a_double_click_opens_and_the_wheel_moves_the_selection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Console, "CLICK_CHAIN_TIME_THRESHOLD", 60.0)  # however slow it is here
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        await pilot.click("#engines", offset=(6, 6), times=2)
        await stage.until(pilot, lambda: isinstance(stage.app.screen, WorkerDetail))
        await stage.settled(pilot)
        await pilot.press("escape")
        await stage.until(pilot, lambda: isinstance(stage.app.screen, Dashboard))
        await pilot.pause()
        assert stage.app.board.selected == "model/mistral-24b"
        await pilot._post_mouse_events([_wheel()], "#engines", (6, 6), 0)
        await stage.until(pilot, lambda: stage.app.board.selected == "model/phi-4")


def _wheel() -> type:
    from textual.events import MouseScrollDown

    return MouseScrollDown


async def test_the_palette_offers_what_is_legal_and_does_it() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "end", "colon")
        for letter in "load phi":
            await pilot.press("space" if letter == " " else letter)
        await stage.settled(pilot)
        await stage.until(pilot, lambda: "start the model" in stage.text())
        assert "unload phi" not in stage.text()
        await pilot.press("enter")
        await stage.until(pilot, lambda: bool(stage.client.commands))
        await stage.settled(pilot)
        assert isinstance(stage.app.screen, Dashboard)
    assert stage.client.commands == [("load", {"model": "phi-4"})]


async def test_the_palette_has_what_begins_with_the_words_first_and_themes_last() -> None:
    stage = Stage()
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "colon", "p", "i", "n")
        await stage.until(pilot, lambda: "rose-pine" in stage.text())
        await pilot.press("enter")
        await stage.until(pilot, lambda: bool(stage.client.commands))
    assert stage.client.commands == [("pin", {"model": "llama-70b"})]


async def chosen(stage: Stage, pilot: Pilot[None], name: str) -> None:
    """Run the command of that name from the palette."""
    await stage.shown(pilot)
    (run,) = [run for each, _, run in palette_commands(stage.app) if each == name]
    run()
    await stage.settled(pilot)


async def test_a_revision_is_tried_and_taken_back_from_the_palette() -> None:
    stage, name = Stage(), "llama-70b"
    async with stage.app.run_test(size=ROW) as pilot:
        await chosen(stage, pilot, "canary llama-70b 10%")
        assert "canary llama-70b 10%: accepted" in last_line(stage)
        canary = Canary(4, 0.1, "llama-70b-2", "2026-11-20T12:00:00Z")
        await stage.push(
            pilot, changed(stage.client.fleet.at(MOMENT + 1), name, revision=3, canary=canary)
        )
        offered = [each for each, _, _ in palette_commands(stage.app) if name in each]
        assert [each for each in offered if each.startswith("canary")] == [
            f"canary {name} {share}%" for share in (25, 50, 75, 100)
        ]
        assert f"roll back {name}" not in offered
        await chosen(stage, pilot, f"canary {name} 50%")
        await chosen(stage, pilot, f"end canary {name}")
        assert isinstance(stage.app.screen, Confirm)
        assert "revision 3 has all requests" in stage.text()
        await go(stage, pilot, "n")
        assert len(stage.client.commands) == 2
        await chosen(stage, pilot, f"end canary {name}")
        await go(stage, pilot, "y")
    assert stage.client.commands == [
        ("canary", {"model": name, "share": 0.1}),
        ("canary", {"model": name, "share": 0.5}),
        ("canary", {"model": name, "end": True}),
    ]


async def test_going_back_to_a_revision_asks_back_and_restarting_the_gateway_does_not() -> None:
    stage, name = Stage(), "llama-70b"
    async with stage.app.run_test(size=ROW) as pilot:
        await chosen(stage, pilot, f"roll back {name}")
        assert "revision 2 takes the place of revision 3" in stage.text()
        assert stage.client.commands == []
        await go(stage, pilot, "y")
        assert f"roll back {name}: accepted" in last_line(stage)
        later = stage.client.fleet.at(MOMENT + 1)
        await stage.push(pilot, replace(later, gateway=replace(later.gateway, running=True)))
        await chosen(stage, pilot, "restart gateway")
        assert "restart gateway: accepted" in last_line(stage)
    assert stage.client.commands == [
        ("rollback", {"model": name, "wait": False}),
        ("gateway-restart", {}),
    ]


async def test_the_fleet_file_is_applied_from_the_palette_once_its_plan_is_agreed_to() -> None:
    stage = Stage()
    stage.client.fleet_file = HOLDS
    async with stage.app.run_test(size=ROW) as pilot:
        await chosen(stage, pilot, "apply fleet file")
        await stage.until(pilot, lambda: isinstance(stage.app.screen, Agree))
        assert stage.client.commands == []


@pytest.mark.parametrize("key", ["l", "u", "r", "plus", "minus", "s", "w", "e", "p"])
async def test_a_read_only_console_changes_nothing_by_any_key(key: str) -> None:
    stage = Stage(readonly=True)
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot, "end", key, "y", "enter")
        assert not isinstance(stage.app.screen, (Confirm, Agree, FleetFilePage))
    assert stage.client.commands == []


async def test_a_read_only_console_offers_only_looks_in_the_palette() -> None:
    stage = Stage(readonly=True)
    async with stage.app.run_test(size=ROW) as pilot:
        await go(stage, pilot)
        names = [name for name, _, _ in palette_commands(stage.app)]
    assert "log qwen3-32b" in names
    changing = ("load", "unload", "scale", "edit", "apply", "pin", "canary", "roll", "restart")
    assert not [name for name in names if name.startswith(changing)]
