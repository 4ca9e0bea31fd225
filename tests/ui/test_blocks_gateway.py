"""What the screen says of the one endpoint: its address, its queues, and how it stands with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.ui.scripted import LabFleet, played
from vllm_console.snapshot import STARTS, Gateway, Queued, Snapshot
from vllm_console.ui.blocks import BLOCKS, fleet_line
from vllm_console.ui.blocks.gateway import address, waiting
from vllm_console.ui.rows import text_of
from vllm_console.ui.view import View

SNAPSHOT, TRENDS = played(LabFleet(gateway=True), 3)
BEFORE = played(LabFleet(), 3)[0]


def of(gateway: Gateway) -> Snapshot:
    return replace(SNAPSHOT, gateway=gateway)


def drawn(snapshot: Snapshot, width: int = 35, **more: object) -> str:
    view = View(snapshot, TRENDS, "model/qwen3-32b", **more)  # type: ignore[arg-type]
    ask = BLOCKS["gateway"].ask
    assert ask is not None
    return text_of(BLOCKS["gateway"].draw(view, width, ask(view, width, 40)))


def line(snapshot: Snapshot, width: int, **more: object) -> str:
    return text_of(fleet_line.draw(View(snapshot, TRENDS, None, **more), width, 1))  # type: ignore[arg-type]


def test_a_running_gateway_tells_where_it_is_and_what_goes_through_it() -> None:
    assert (
        drawn(SNAPSHOT)
        == """\
gateway                 ● up 25.8 h
127.0.0.1:4000           7.30 req/s
in flight    421  queued         21
rejected a minute                 0"""
    )
    assert drawn(SNAPSHOT, 60).splitlines()[1].startswith("http://127.0.0.1:4000")


def test_a_gateway_that_does_not_tell_yet_has_dashes_and_no_number() -> None:
    text = drawn(of(Gateway(True, "http://127.0.0.1:4000")))
    assert not any(char.isdigit() for char in text.replace("127.0.0.1:4000", ""))
    assert text.count("–") == 5


def test_what_is_wrong_with_it_stands_under_its_numbers() -> None:
    trouble = replace(SNAPSHOT.gateway, reason="its link is silent for 12 s", rejected_per_s=0.5)
    assert drawn(of(trouble)).splitlines()[3:] == [
        "rejected a minute                30",
        "▲ its link is silent for 12 s",
    ]


@pytest.mark.parametrize(
    ("gateway", "text"),
    [
        (
            Gateway(),
            "gateway                       ○ off\nclients ask each worker at its own\naddress",
        ),
        (Gateway(reason=STARTS), "gateway                    ◐ starts"),
        (
            Gateway(reason="port 4000 is taken by pid 7 (nginx)"),
            "gateway                       ○ off\nport 4000 is taken by pid 7 (nginx)",
        ),
    ],
)
def test_without_one_it_says_where_requests_go_or_why(gateway: Gateway, text: str) -> None:
    assert drawn(of(gateway)) == text


def test_of_the_past_it_is_not_recorded() -> None:
    assert drawn(of(Gateway()), past=True).split() == ["gateway", "not", "recorded"]
    assert drawn(of(Gateway()), recorded="a.sqlite").split() == ["gateway", "not", "recorded"]


def test_the_fleet_line_has_the_address_where_there_is_room_for_it() -> None:
    assert "lab-a at 127.0.0.1:4000 " in line(SNAPSHOT, 200)
    assert " at " in line(SNAPSHOT, 160)
    for width in (60, 80, 100, 120, 140):
        assert line(SNAPSHOT, width).endswith(line(BEFORE, width)[-20:])
        assert len(line(SNAPSHOT, width)) <= width
    assert " at " not in line(SNAPSHOT, 100)
    assert " at " not in line(BEFORE, 200)
    assert "lab-a  ◐ gateway starts" in line(of(Gateway(reason=STARTS)), 200)


def test_only_what_is_told_is_counted_as_waiting() -> None:
    assert waiting(Queued()) is None
    assert waiting(Queued(1, None, 2)) == 3
    assert address("http://127.0.0.1:4000/") == "127.0.0.1:4000"
    assert address("https://models.example") == "https://models.example"
