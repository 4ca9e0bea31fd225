"""What a poll of eight GPUs costs, on a fake driver that answers at once: Python and ctypes."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fakenvml.fake import GIB, FakeDriver
from vllm_console.devices.nvml import Nvml
from vllm_console.devices.ownership import with_processes
from vllm_console.devices.patient import PatientNvml

GPUS = 8


def figures(name: str, times: list[float], cpu_s: float) -> str:
    """One row: median and 99th percentile of the wall time, CPU time a poll, in ms."""
    p99 = statistics.quantiles(times, n=100)[98]
    return (
        f"{name:<34}{statistics.median(times) * 1e3:>8.2f}{p99 * 1e3:>8.2f}"
        f"{cpu_s / len(times) * 1e3:>10.2f}"
    )


async def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polls", type=int, default=1000)
    polls = parser.parse_args().polls
    with tempfile.TemporaryDirectory() as directory:
        driver = FakeDriver(Path(directory))
        driver.reset(GPUS)
        for index in range(GPUS):
            driver.gpu(index).run((1000 + index, 70 * GIB))
        nvml = Nvml(api=driver.pynvml())
        patient = PatientNvml(nvml)
        owners = {1000 + index: f"worker-{index}" for index in range(GPUS)}
        nvml.poll()
        print(f"{f'poll of {GPUS} GPUs, ms':<34}{'median':>8}{'p99':>8}{'CPU/poll':>10}")
        times, cpu = [], time.process_time()
        for _ in range(polls):
            begun = time.perf_counter()
            nvml.poll()
            times.append(time.perf_counter() - begun)
        print(figures("the calls", times, time.process_time() - cpu))
        times, cpu = [], time.process_time()
        for _ in range(polls):
            begun = time.perf_counter()
            with_processes(await patient.poll(), owners, lambda _: None)
            times.append(time.perf_counter() - begun)
        print(figures("in a thread, processes attributed", times, time.process_time() - cpu))
        await patient.close()


if __name__ == "__main__":
    asyncio.run(main())
