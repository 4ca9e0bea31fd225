"""Calls a worker stalled whose engine does not get on, and ready again once it does."""

from __future__ import annotations

from collections.abc import Callable

from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor
from vllm_console.workers.states import State


def judge_progress(
    models: Roster, worker_id: str, frozen_s: float, restart: Callable[[Actor], object]
) -> None:
    """`frozen_s`: for how long requests have run and no iteration has finished."""
    for model, worker in models.workers():
        if worker.id != worker_id:
            continue
        config, _ = model.config_of(worker_id)
        if worker.state == State.STALLED and frozen_s == 0.0:
            worker.resumed()
        elif worker.state == State.READY and frozen_s >= config.stall_after_s:
            worker.stalled(f"requests run, no iteration has finished for {frozen_s:.0f} s")
            if config.on_stall == "restart":
                restart(worker)
