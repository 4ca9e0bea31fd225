"""What a person should look at, from GPUs."""

from __future__ import annotations

from vllm_console.control.picture import alerts
from vllm_console.snapshot import Alert, Gpu


def test_a_gpu_that_does_not_answer_is_an_alert_above_mere_warnings() -> None:
    gpus = (Gpu("n", 0, "GPU-0", "H100"), Gpu("n", 3, "GPU-3", "H100", fault="needs a reset"))
    assert alerts((), ["disk full"], gpus) == (
        Alert("crit", "GPU 3", "needs a reset"),
        Alert("warn", "history", "disk full"),
    )
