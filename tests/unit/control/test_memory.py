"""Where the memory of each GPU went, by what the driver and the engine's log say."""

from __future__ import annotations

from vllm_console.control.picture import engine_facts, gpu_memory
from vllm_console.control.served import Actor
from vllm_console.devices.nvml import NvmlReading
from vllm_console.snapshot import Engine, Gpu, GpuMemory, Worker

GIB = 2**30
ENGINE = Engine(weights_bytes=60 * GIB, kv_cache_bytes=40 * GIB)
DEVICES = NvmlReading(
    tuple(
        Gpu("here", i, f"GPU-{i}", "H200", memory_used_bytes=70 * GIB, memory_total_bytes=141 * GIB)
        for i in range(4)
    )
)


def test_ranks_share_weights_and_cache_in_equal_parts() -> None:
    worker = Worker("m-1", "ready", pid=7, gpus=(0, 2), kv_cache_usage=0.25)
    one, two = gpu_memory([worker], ENGINE, DEVICES)
    assert (one.index, two.index) == (0, 2)
    assert one == GpuMemory(
        "here", 0, 141 * GIB, 70 * GIB, 30 * GIB, 5 * GIB, 15 * GIB, 20 * GIB
    )  # fmt: skip


def test_two_workers_on_one_gpu_add_up() -> None:
    workers = [
        Worker(f"m-{i}", "ready", pid=i, gpus=(1,), kv_cache_usage=0.5) for i in (1, 2)
    ]  # fmt: skip
    (one,) = gpu_memory(workers, Engine(weights_bytes=10 * GIB, kv_cache_bytes=8 * GIB), DEVICES)
    assert (one.weights_bytes, one.kv_used_bytes, one.other_bytes) == (20 * GIB, 8 * GIB, 34 * GIB)


def test_what_is_not_known_is_not_zero() -> None:
    starting = Worker("m-1", "starting", pid=7, gpus=(0,))
    (one,) = gpu_memory([starting], ENGINE, DEVICES)
    assert (one.used_bytes, one.weights_bytes, one.other_bytes) == (70 * GIB, None, None)
    ready = Worker("m-1", "ready", pid=7, gpus=(0,))
    (two,) = gpu_memory([ready], ENGINE, DEVICES)
    assert (two.kv_used_bytes, two.kv_free_bytes) == (None, None)
    assert gpu_memory([Worker("m-1", "stopped", gpus=(0,))], ENGINE, DEVICES) == ()
    assert gpu_memory([Worker("m-1", "ready", pid=7, gpus=(9,))], ENGINE, DEVICES) == ()
    assert gpu_memory([Worker("m-1", "ready", pid=7)], ENGINE, DEVICES) == ()


class FakeActor:
    """A fake worker of which only the engine matters."""

    engine = Engine()


def test_the_cache_tells_its_blocks_and_what_it_may_be_moved_to() -> None:
    actor: Actor = FakeActor()  # type: ignore[assignment]
    info = {"num_gpu_blocks": "64", "kv_offloading_size": "1.5", "block_size": "128"}
    told = engine_facts(actor, info, {})
    assert (told.kv_cache_blocks, told.swap_bytes) == (64, int(1.5 * GIB))
    unset = engine_facts(actor, {"num_gpu_blocks": "None", "kv_offloading_size": "None"}, {})
    assert (unset.kv_cache_blocks, unset.swap_bytes) == (None, None)
