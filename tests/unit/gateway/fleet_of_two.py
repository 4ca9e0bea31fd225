"""A fake gateway for tests of its numbers: real queues and workers, and nothing that listens."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_console.gateway.admission import Queue
from vllm_console.gateway.balancing import Balance
from vllm_console.gateway.measures import Measures
from vllm_console.gateway.table import Limits, Model, Table, Worker

MODELS = (
    Model(
        name="qwen",
        aliases=("qwen-small",),
        adapters=("qwen-law",),
        state="ready",
        created=1_700_000_000,
        max_model_len=4096,
        limits=Limits(queue=2),
        workers=(
            Worker(id="qwen-1", port=8001, revision=1, slots=1, gpus=1),
            Worker(id="qwen-2", port=8002, revision=1, slots=1, gpus=1, draining=True),
        ),
    ),
    Model(name="llama", state="stopped", on_demand=False),
)


@dataclass
class FakeLive:
    """A model's queue and workers."""

    queue: Queue = field(default_factory=Queue)
    balance: Balance = field(default_factory=Balance)


class FakeGateway:
    """Routes nothing; has what numbers are made of."""

    def __init__(self, models: tuple[Model, ...] = MODELS, now: float = 0.0) -> None:
        self.table = Table(version=7, fleet="lab", models=models)
        self.measures = Measures()
        self.models = {model.name: FakeLive() for model in models}
        for model in models:
            live = self.models[model.name]
            live.balance.configure(model.workers, {}, now)
            live.queue.configure(live.balance.capacity, model.limits, now)
