"""Says which workers ended while no daemon ran, and whether a reboot took them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_console.workers.launch import Loss


def tell_losses(losses: Sequence[Loss], tell: Callable[[str, str, str], object]) -> None:
    """An event each, but one for all that a reboot took; `tell` takes level, subject and text."""
    rebooted = [loss.worker_id for loss in losses if loss.rebooted]
    if rebooted:
        tell("warn", "fleet", f"the machine was rebooted, lost {', '.join(rebooted)}")
    for loss in losses:
        if loss.exit is not None and loss.exit.rc is not None:
            text = f"ended while no daemon ran (exit code {loss.exit.rc})"
            tell("warn", loss.worker_id, text)
        elif not loss.rebooted:
            tell("warn", loss.worker_id, "was gone when the daemon started, no exit code")
