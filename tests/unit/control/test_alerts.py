"""What a person should look at, from GPUs."""

from __future__ import annotations

import pytest

from vllm_console.control.picture import alerts
from vllm_console.snapshot import Alert, Gpu, Latency, Load, Model, Quantiles, Slo


def test_a_gpu_that_does_not_answer_is_an_alert_above_mere_warnings() -> None:
    gpus = (Gpu("n", 0, "GPU-0", "H100"), Gpu("n", 3, "GPU-3", "H100", fault="needs a reset"))
    assert alerts((), ["disk full"], gpus) == (
        Alert("crit", "GPU 3", "needs a reset"),
        Alert("warn", "history", "disk full"),
    )


@pytest.mark.parametrize(
    ("quantiles", "text"),
    [
        (Quantiles(p95=0.051, count=60), "ITL p95 51 ms > 50 ms"),
        (Quantiles(p95=0.05, count=60), None),
        (Quantiles(p95=0.07, count=59, thin=("p95",)), None),
        (Quantiles(p95=0.06, count=60, p95_between=(0.04, 0.08)), None),
        (Quantiles(p95=0.06, count=60, p95_between=(0.05, 0.075)), "ITL p95 over 50 ms > 50 ms"),
    ],
)
def test_only_what_is_surely_over_its_target_is_an_alert(
    quantiles: Quantiles, text: str | None
) -> None:
    load = Load(latency=Latency(itl_s=quantiles))
    model = Model("qwen", "q", 1, "ready", 1, 1, slo=Slo(itl_p95_s=0.05), load=load)
    assert [alert.text for alert in alerts((model,), ())] == ([] if text is None else [text])
