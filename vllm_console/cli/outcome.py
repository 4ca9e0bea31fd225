"""What a headless demo saw: the table and the JSON object it prints, and whether all went well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm_console.snapshot import to_json
from vllm_console.traffic.summary import ModelSummary, Summary

SCHEMA = "vllm-console/demo/1"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a headless demo saw."""

    summary: Summary
    expected: tuple[str, ...]
    """The models that had to serve."""
    started_at: float
    """Unix time at which the demo began."""

    @property
    def unserved(self) -> list[str]:
        """The expected models that generated no token."""
        served = {model.model for model in self.summary.models if model.output_tokens > 0}
        return [name for name in self.expected if name not in served]

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the beginning of the demo to the first token."""
        at = self.summary.first_token_at
        return None if at is None else at - self.started_at

    def to_json(self) -> dict[str, Any]:
        """The whole outcome, with latencies in seconds."""
        return {
            "schema": SCHEMA,
            "ok": not self.unserved,
            "first_token_s": self.first_token_s,
            **to_json(self.summary),
        }

    def lines(self) -> list[str]:
        """The outcome as a table."""
        header = ("model", "requests", "tokens", "tok/s", "TTFT p50", "TTFT p95", "errors")
        rows = [header, *(self._row(model) for model in self._models())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines = []
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=False)]
            lines.append("  ".join([*cells, row[-1]]).rstrip())
        summary = self.summary
        first = "no token" if self.first_token_s is None else f"{self.first_token_s:.1f} s"
        lines += ["", f"{'first token after':<18}{first}"]
        lines.append(f"{'traffic':<18}{summary.seconds:.0f} s")
        for count, why in (
            (summary.dropped, "too many in flight"),
            (summary.unrouted, "no worker ready"),
        ):
            if count:
                lines.append(f"{'not sent':<18}{count} ({why})")
        return lines

    def _models(self) -> list[ModelSummary]:
        """Every model that got requests, and those that should have."""
        told = {model.model: model for model in self.summary.models}
        for name in self.expected:
            told.setdefault(name, ModelSummary(name, 0, 0, {}, 0, 0))
        return [told[name] for name in sorted(told)]

    def _row(self, model: ModelSummary) -> tuple[str, ...]:
        errors = ", ".join(f"{count} {kind}" for kind, count in model.errors.items())
        rate = model.output_tokens / self.summary.seconds if self.summary.seconds else 0.0
        return (
            model.model,
            str(model.sent),
            str(model.output_tokens),
            f"{rate:.1f}",
            _milliseconds(model.ttft_p50_s),
            _milliseconds(model.ttft_p95_s),
            errors or "none",
        )


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
