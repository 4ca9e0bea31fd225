"""The board: selection by key, the filter, the pause, and the age of the picture."""

from __future__ import annotations

from dataclasses import replace

from tests.ui.scripted import LabFleet, played
from vllm_console.snapshot import Snapshot
from vllm_console.ui.board import Board
from vllm_console.ui.states import refusal
from vllm_console.ui.trends import FEWER, MANY, Trends

FLEET = LabFleet()
FIRST = FLEET.at(140)


def board(*snapshots: Snapshot) -> Board:
    made = Board()
    made.take(snapshots or [FIRST], 100.0)
    return made


def chosen(made: Board) -> str | None:
    return made.selected


def test_the_first_model_is_selected_first() -> None:
    assert board().selected == "model/llama-70b"
    assert Board().selected is None


def test_moving_walks_models_and_workers_and_stops_at_both_ends() -> None:
    made = board()
    keys = []
    for _ in range(7):
        keys.append(made.selected)
        made.move(1)
    assert keys == [
        "model/llama-70b", "model/qwen3-32b", "worker/qwen3-32b-1", "worker/qwen3-32b-2",
        "model/mistral-24b", "model/phi-4", "model/phi-4",
    ]  # fmt: skip
    made.move(-100)
    assert chosen(made) == "model/llama-70b"


def test_the_selection_stays_on_its_model_when_others_come_and_go() -> None:
    made = board()
    made.select("model/mistral-24b")
    new = replace(FIRST.models[0], name="a-new-one")
    made.take([replace(FIRST, models=(new, *FIRST.models[1:]))], 101.0)
    assert chosen(made) == "model/mistral-24b"


def test_when_a_worker_goes_its_model_is_selected() -> None:
    made = board()
    made.select("worker/qwen3-32b-2")
    qwen = FIRST.models[1]
    one = replace(qwen, workers=qwen.workers[:1])
    made.take([replace(FIRST, models=(FIRST.models[0], one, *FIRST.models[2:]))], 101.0)
    assert chosen(made) == "model/qwen3-32b"


def test_when_a_model_goes_the_row_in_its_place_is_selected() -> None:
    made = board()
    made.select("model/phi-4")
    made.take([replace(FIRST, models=FIRST.models[:3])], 101.0)
    assert chosen(made) == "model/mistral-24b"
    made.take([replace(FIRST, models=())], 102.0)
    assert chosen(made) is None
    made.take([FIRST], 103.0)
    assert chosen(made) == "model/llama-70b"


def test_a_filter_looks_at_names_sources_and_states() -> None:
    made = board()
    made.narrow("MISTRAL")
    assert [e.key for e in made.entries] == ["model/mistral-24b"]
    assert chosen(made) == "model/mistral-24b"
    made.narrow("microsoft")
    assert [e.key for e in made.entries] == ["model/phi-4"]
    made.narrow("starting")
    assert [e.key for e in made.entries] == ["model/mistral-24b"]
    made.narrow("nothing like it")
    assert made.entries == []
    assert chosen(made) is None
    made.narrow("")
    assert chosen(made) == "model/llama-70b"


def test_a_picture_is_old_after_three_intervals_without_another() -> None:
    made = board()
    assert made.view(102.9, None).old_s is None
    assert made.view(103.0, None).old_s == 3.0
    made.take([FLEET.at(141)], 103.5)
    assert made.view(104.0, None).old_s is None


def test_a_held_picture_is_not_called_old_while_the_daemon_answers() -> None:
    made = board()
    made.paused = True
    assert made.view(160.0, None).old_s is None
    assert made.view(160.0, "gone").old_s == 60.0


def test_trends_hold_one_value_a_snapshot_and_a_gap_for_none() -> None:
    made = board(FIRST, FLEET.at(141))
    assert len(made.trends.tail("model/llama-70b", "running", 100)) == 2
    assert made.trends.tail("model/phi-4", "running", 100) == [None, None]
    assert len(made.trends.tail("worker/qwen3-32b-1", "running", 100)) == 2
    assert made.trends.tail("worker/llama-70b-1", "running", 100) == []


def test_what_the_daemon_remembers_replaces_the_trends() -> None:
    made = board(FIRST)
    made.take([{"fleet": {"running": [1.0, None, 3.0]}}, FLEET.at(141)], 101.0)
    running = made.trends.tail("fleet", "running", 100)
    assert running[:3] == [1.0, None, 3.0]
    assert len(running) == 4


def test_a_daemon_that_has_just_started_takes_no_graph_away() -> None:
    made = board(*(FLEET.at(t) for t in range(140, 150)))
    made.take([FLEET.at(156), {"fleet": {"running": [None, None, 3.0]}}], 120.0)
    running = made.trends.tail("fleet", "running", 100)
    assert len(running) == 17
    assert running[10:16] == [None] * 6
    assert None not in running[:10]
    assert running[16] is not None


def test_a_model_that_is_gone_is_forgotten() -> None:
    made = board(FIRST)
    made.take([replace(FIRST, models=FIRST.models[:1])], 101.0)
    assert made.trends.tail("model/phi-4", "running", 9) == []
    assert made.trends.tail("model/llama-70b", "running", 9) != []


def test_trends_stay_bounded() -> None:
    _, trends = played(FLEET, 10)
    for _ in range(2000):
        trends.append(FIRST)
    assert 600 <= len(trends.tail("fleet", "running", 10_000)) <= 1200


def test_of_many_subjects_less_is_kept_but_of_the_fleet_all() -> None:
    many, trends = LabFleet(models=MANY, gpus=8).at(140), Trends()
    for _ in range(500):
        trends.append(many)
    name = many.models[0].name
    assert FEWER <= len(trends.tail(f"model/{name}", "running", 10_000)) < 400
    assert len(trends.tail("fleet", "running", 10_000)) == 500


def test_only_legal_actions_are_not_refused() -> None:
    legal = {}
    for state in ("ready", "starting", "backoff", "draining", "stopped", "failed", "crash-loop"):
        model = replace(FIRST.models[0], state=state)
        legal[state] = "".join(
            verb[0] for verb in ("load", "unload", "restart") if refusal(verb, model) is None
        )
    assert legal == {
        "ready": "ur", "starting": "ur", "backoff": "ur", "draining": "", "stopped": "l",
        "failed": "lur", "crash-loop": "lur",
    }  # fmt: skip
