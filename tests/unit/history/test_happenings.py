"""When which revision served, by the events that tell of it."""

from __future__ import annotations

from vllm_console.history.happenings import Happening, Reign, reigns
from vllm_console.history.records import Revision
from vllm_console.history.when import iso


def revision(number: int, at: float) -> Revision:
    return Revision(number, f"mark {number}", iso(at), {})


def told(at: float, text: str) -> Happening:
    return Happening(at, "info", "m", text)


def test_a_revision_that_was_a_canary_serves_from_when_it_was_taken() -> None:
    events = [
        told(200.1, "canary: revision 2 starts beside revision 1"),
        told(400.0, "revision 2 serves"),
    ]
    revisions = [revision(1, 100.0), revision(2, 200.0)]
    assert reigns(events, revisions, "m", 100.0, 500.0) == [
        Reign(1, 100.0, 400.0),
        Reign(2, 400.0, 500.0),
    ]


def test_a_canary_that_ended_never_served() -> None:
    events = [
        told(200.1, "canary: revision 2 starts beside revision 1"),
        told(300.0, "canary: revision 2 ends; revision 1 has all requests"),
    ]
    revisions = [revision(1, 100.0), revision(2, 200.0)]
    assert reigns(events, revisions, "m", 100.0, 500.0) == [Reign(1, 100.0, 500.0)]


def test_a_revision_that_had_served_before_it_was_a_canary_did_serve() -> None:
    events = [
        told(300.0, "revision 1 serves"),
        told(400.0, "canary: revision 2 starts beside revision 1"),
    ]
    revisions = [revision(1, 100.0), revision(2, 200.0)]
    assert [reign.revision for reign in reigns(events, revisions, "m", 100.0, 500.0)] == [1, 2, 1]
