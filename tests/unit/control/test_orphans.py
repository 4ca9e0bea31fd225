"""What a daemon tells of orphans: each once as an event, all of them as alerts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from vllm_console.control.orphans import Named, OrphanWatch, find
from vllm_console.devices.nvml import NvmlReading
from vllm_console.workers.orphans import Kind, Orphan

LAB = Path("/state/lab")


def named(pid: int, kind: Kind = Kind.FOREIGN, start: int = 7) -> Named:
    orphan = Orphan(pid, start, kind, "VLLM::EngineCore", "its server is gone", 0, tree=((pid, 7),))
    return Named(orphan, 1_795_330_800.0, None)


class Watched:
    """An `OrphanWatch` over what a test says there is."""

    def __init__(self, *found: Named) -> None:
        self.found = list(found)
        self.told: list[tuple[str, str, str]] = []
        self.asked: list[tuple[object, ...]] = []
        self.watch = OrphanWatch(LAB, NvmlReading, lambda *e: self.told.append(e), self._find)

    def _find(self, *args: object, **options: object) -> list[Named]:
        self.asked.append((*args, options))
        return list(self.found)

    def look(self) -> None:
        asyncio.run(self.watch.look())


def test_an_orphan_is_an_alert_while_it_lives_and_an_event_once() -> None:
    seen = Watched(named(40))
    assert not seen.watch.alerts
    seen.look()
    seen.look()
    [alert] = seen.watch.alerts
    assert (alert.level, alert.subject) == ("warn", "pid 40")
    assert alert.text == (
        "orphan, VLLM::EngineCore since 2026-11-22 07:00 UTC: its server is gone; "
        "`vllm-console reap 40` ends it"
    )
    assert seen.told == [("warn", "pid 40", alert.text)]
    assert seen.asked[0] == (LAB, NvmlReading(), {"attended": True})
    seen.found = []
    seen.look()
    assert not seen.watch.alerts


def test_a_pid_used_again_is_another_orphan() -> None:
    seen = Watched(named(40))
    seen.look()
    seen.found = [named(40, start=9)]
    seen.look()
    assert len(seen.told) == 2


def test_a_hundred_orphans_leave_room_for_other_alerts() -> None:
    seen = Watched(*(named(pid) for pid in range(100)))
    seen.look()
    assert len(seen.watch.alerts) == 9
    assert seen.watch.alerts[-1].text == "92 more: `vllm-console reap` lists them"


def test_a_living_worker_is_not_offered_to_reap() -> None:
    directory = LAB / "workers" / "m-1"
    orphan = Orphan(5, 7, Kind.UNATTENDED, "vllm serve", "…", 0, directory)
    assert Named(orphan, 0.0, None).remedy == (
        "`vllm-console up -d --state-dir /state/lab` adopts it, `down` with the same ends it"
    )


def test_looking_at_this_machine_finds_nothing_of_this_test(tmp_path: Path) -> None:
    found = find(tmp_path, NvmlReading())
    assert not [n for n in found if n.orphan.directory and tmp_path in n.orphan.directory.parents]
