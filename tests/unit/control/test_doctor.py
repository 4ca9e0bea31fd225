"""What doctor makes of what it reads, and that a thing that hangs holds nothing up."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from vllm_console.control import doctor
from vllm_console.control.doctor import GIB, MIB, Check, Room
from vllm_console.control.examination import examine, hub_cache, ntp_synchronised
from vllm_console.control.orphans import Named
from vllm_console.devices.driver import Driver
from vllm_console.fleet.find import Place
from vllm_console.snapshot import Gpu
from vllm_console.workers.orphans import Kind, Orphan
from vllm_console.workers.strangers import Stray


def told(check: Check) -> tuple[str, str]:
    """Level and text and remedy, after the rule that every trouble has a remedy."""
    assert (check.remedy is None) == (check.level == "ok"), check
    return check.level, f"{check.text} {check.remedy or ''}"


@pytest.mark.parametrize(
    ("driver", "needs", "level", "says"),
    [
        (None, (12, 8), "bad", "none is loaded"),
        (Driver("580.65.06", (13, 0)), (12, 8), "ok", "up to 13.0"),
        (Driver("570.10", (12, 8)), (12, 8), "ok", "CUDA 12.8"),
        (Driver("550.54", (12, 4)), (12, 8), "warn", "upgrade to CUDA 12.8"),
        (Driver("570.10", (12, 8)), (13, 0), "bad", "580.65 or newer"),
        (Driver("570.10", (12, 8)), (14, 0), "bad", "upgrade the driver,"),
        (Driver("570.10", None), (12, 8), "ok", "not recorded"),
        (Driver("570.10", (12, 8)), None, "ok", "not recorded"),
    ],
)
def test_the_driver_is_held_against_what_torch_needs(
    driver: Driver | None, needs: tuple[int, int] | None, level: str, says: str
) -> None:
    seen = told(doctor.cuda_match(driver, "vllm", needs))
    assert seen[0] == level
    assert says in seen[1]


CARD = Gpu("n", 0, "u", "NVIDIA H200", memory_used_bytes=3 * GIB, memory_total_bytes=140 * GIB)


def test_a_gpu_names_who_else_is_on_it_and_nobody_that_is_out_of_sight() -> None:
    level, text = told(doctor.gpu(CARD, {5: 2 * GIB, 6: None, 99: GIB}, [6], [5, 6]))
    assert level == "warn"
    assert "pid 5 (2.0 GiB)" in text
    assert "99" not in text
    assert told(doctor.gpu(CARD, {6: GIB}, [6], [6]))[0] == "ok"


def test_a_lost_gpu_is_bad_and_a_hot_one_a_warning() -> None:
    lost = Gpu("n", 0, "u", "NVIDIA H200", fault="fallen off the bus")
    assert told(doctor.gpu(lost, {}, [], []))[0] == "bad"
    hot = Gpu("n", 0, "u", "NVIDIA H200", throttle="thermal (hardware)")
    assert told(doctor.gpu(hot, {}, [], []))[0] == "warn"
    capped = Gpu("n", 0, "u", "NVIDIA H200", throttle="power cap")
    assert told(doctor.gpu(capped, {}, [], []))[0] == "ok"


@pytest.mark.parametrize(
    ("free", "writable", "level"),
    [
        (5 * GIB, True, "ok"),
        (GIB - 1, True, "warn"),
        (99 * MIB, True, "bad"),
        (5 * GIB, False, "bad"),
    ],
)
def test_a_disk_is_judged_by_room_and_right(free: int, writable: bool, level: str) -> None:
    assert told(doctor.disk(Room("x", Path("/x"), free, writable, GIB, 100 * MIB)))[0] == level


def test_a_directory_that_is_not_made_yet_is_judged_where_it_would_be(tmp_path: Path) -> None:
    assert doctor.nearest(tmp_path / "a" / "b") == tmp_path
    seen = doctor.room("x", tmp_path / "a" / "b")
    assert seen.writable
    assert seen.free_bytes > 0


def test_state_on_a_disk_of_other_machines_is_a_warning() -> None:
    assert doctor.locality(Path("/s"), None) == []
    (found,) = doctor.locality(Path("/home/ann/s"), "nfs4")
    level, text = told(found)
    assert level == "warn"
    assert "/home/ann/s is on nfs4" in text
    assert "--state-dir" in text


def test_shared_memory_limits_and_the_clock_have_bounds() -> None:
    assert told(doctor.shm(None))[0] == "bad"
    assert told(doctor.shm(64 * MIB))[0] == "warn"
    assert told(doctor.shm(GIB))[0] == "ok"
    assert told(doctor.open_files(1024, 65535))[0] == "warn"
    assert told(doctor.open_files(1024, 65536))[0] == "ok"
    assert told(doctor.open_files(1024, -1)) == (
        "ok",
        "open files: 1024, may be raised to no limit ",
    )
    assert told(doctor.clock(1000.0, 1061.0, True))[0] == "bad"
    assert told(doctor.clock(1000.0, 1060.0, True))[0] == "ok"
    assert told(doctor.clock(1000.0, 0.0, False))[0] == "warn"
    assert told(doctor.clock(1000.0, 0.0, None))[0] == "ok"
    assert ntp_synchronised() in (True, False, None)


def test_orphans_are_named_with_what_to_do() -> None:
    orphan = Orphan(6, 1, Kind.FOREIGN, "VLLM::EngineCore", "its server is gone", 0, tree=((6, 1),))
    strays = [Stray(5, "vllm serve", False), Stray(6, "VLLM::EngineCore", True)]
    left, others = doctor.orphans([Named(orphan, 0.0, GIB)], strays)
    level, text = told(left)
    assert level == "warn"
    assert "pid 6, VLLM::EngineCore" in text
    assert "1.0 GiB on GPUs: its server is gone" in text
    assert "`vllm-console reap 6`" in text
    assert told(others)[0] == "ok"
    assert "pid 5;" in others.text
    assert doctor.orphans([], []) == [Check("orphans", "ok", "none")]


def test_the_gateways_port_is_free_ours_or_taken() -> None:
    assert told(doctor.port("h", 1, free=True, pid=None, ours=False))[0] == "ok"
    assert told(doctor.port("h", 1, free=False, pid=4, ours=True))[0] == "ok"
    assert "pid 4" in told(doctor.port("h", 1, free=False, pid=4, ours=False))[1]
    assert "another user" in told(doctor.port("h", 1, free=False, pid=None, ours=False))[1]


def test_control_groups_are_never_required() -> None:
    assert {told(doctor.cgroups(v, kill=v == 2))[0] for v in (None, 1, 2)} == {"ok"}


def test_what_hangs_or_breaks_is_said_and_holds_nothing_up() -> None:
    release = threading.Event()

    def hangs() -> list[Check]:
        release.wait(30)
        return []

    def breaks() -> list[Check]:
        raise OSError("stale file handle")

    began = time.monotonic()
    try:
        found = doctor.gather(
            {"nfs": hangs, "x": breaks, "y": lambda: [Check("y", "ok", "well")]}, 0.1
        )
    finally:
        release.set()
    assert time.monotonic() - began < 5
    assert [(check.name, told(check)[0]) for check in found] == [
        ("nfs", "warn"),
        ("x", "warn"),
        ("y", "ok"),
    ]
    assert "stale file handle" in found[1].text


def test_the_hub_cache_is_where_the_hub_library_looks() -> None:
    assert hub_cache({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")


def test_this_machine_is_looked_at_whole_with_a_fleet_and_without(tmp_path: Path) -> None:
    place = Place(tmp_path / "fleet.toml", "t", tmp_path / "state")
    with_fleet = {check.name for check in examine(place, None)}
    without = {check.name for check in examine(None, None)}
    wanted = {"python", "disk: models", "gateway", "shm", "ulimit", "orphans", "clock", "cgroup"}
    assert wanted <= without
    assert with_fleet - without >= {"daemon", "disk: state"}
    assert not (tmp_path / "state").exists()
