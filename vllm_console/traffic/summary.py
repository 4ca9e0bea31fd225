"""What traffic saw from the client's side: counts, tokens and latencies, in total and by model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_console.traffic.histogram import LogHistogram


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The requests to one model; latencies in seconds, `None` before the first answer."""

    model: str
    sent: int
    ok: int
    """Answered to the end."""
    errors: Mapping[str, int]
    """Requests that failed, by kind: refused, timeout, disconnected, http-503, …"""
    prompt_tokens: int
    output_tokens: int
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    e2e_p50_s: float | None = None
    e2e_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything since the generator started."""

    seconds: float
    in_flight: int
    dropped: int
    """Arrivals not sent because too many requests were in flight."""
    unrouted: int
    """Arrivals not sent because no worker was ready."""
    first_token_at: float | None
    """Unix time of the first token of all."""
    models: tuple[ModelSummary, ...] = ()

    @property
    def output_tokens(self) -> int:
        """Tokens generated, over all models."""
        return sum(model.output_tokens for model in self.models)

    @property
    def failed(self) -> int:
        """Requests that were sent and not answered to the end."""
        return sum(sum(model.errors.values()) for model in self.models)


@dataclass(slots=True)
class Tally:
    """The running counts of one model."""

    sent: int = 0
    ok: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft: LogHistogram = field(default_factory=LogHistogram)
    e2e: LogHistogram = field(default_factory=LogHistogram)

    def summary(self, model: str) -> ModelSummary:
        """These counts, frozen."""
        return ModelSummary(
            model=model,
            sent=self.sent,
            ok=self.ok,
            errors=dict(sorted(self.errors.items())),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            ttft_p50_s=self.ttft.quantile(0.50),
            ttft_p95_s=self.ttft.quantile(0.95),
            e2e_p50_s=self.e2e.quantile(0.50),
            e2e_p95_s=self.e2e.quantile(0.95),
        )
