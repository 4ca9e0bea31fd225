"""What the fake fleet tells when one looks before acting: configuration, plan, file, history."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from vllm_console.answer import Answer, Change, Figure, Mark, Measured, Question
from vllm_console.looks import (
    Configured,
    Cut,
    FileChange,
    FleetFile,
    LoadPlan,
    Setting,
    Trouble,
    Variable,
)
from vllm_console.snapshot import AuditEntry, to_json

GIB = 2**30
LOOKS = ("config", "load-plan", "fleet-file")
PATH = "/etc/lab/fleet.toml"

FILE = """\
# Two boxes of four H200 each.
[fleet]
name = "lab-a"

[defaults.options]
gpu_memory_utilization = 0.90       # of each GPU

[models.qwen3-32b]
source = "Qwen/Qwen3-32B"
autostart = true

[models.qwen3-32b.options]
max_num_seqs = 256
max_modle_len = 32768

[models.qwen3-32b.env]
HF_TOKEN = { file = "secrets/HF_TOKEN" }
"""
HOLDS = FILE.replace("modle", "model")


def configured(model: str) -> Configured:
    """Settings of every layer, and an environment with a secret."""
    return Configured(
        model,
        3,
        (
            Setting("source", '"Qwen/Qwen3-32B"', "fleet.toml:9", "model"),
            Setting("engine", '"cu129"', "built-in", "built-in"),
            Setting("autostart", "true", "fleet.toml:10", "model"),
            Setting("drain_timeout", '"30s"', "built-in", "built-in"),
            Setting("options.gpu_memory_utilization", "0.9", "fleet.toml:6", "defaults"),
            Setting("options.max_num_seqs", "256", "fleet.toml:13", "model"),
            Setting("options.max_model_len", "32768", "--set", "command line"),
            Setting("slo.ttft_p95", '"350ms"', "VLLM_CONSOLE_SLO", "environment"),
        ),
        (
            Variable("HF_TOKEN", None, "fleet.toml:17"),
            Variable("VLLM_NO_USAGE_STATS", "1", "fleet.toml:18"),
        ),
    )


def load_plan(model: str) -> LoadPlan:
    """A model that fits on one GPU, after a neighbour has started."""
    return LoadPlan(
        model,
        3,
        workers=1,
        gpus=(Cut(4, "NVIDIA H200", 141 * GIB, int(0.6 * GIB), int(126.9 * GIB)),),
        weights_bytes=int(27.4 * GIB),
        host_free_bytes=300 * GIB,
        expected_s=94.0,
        waits_for=("qwen3-32b-2",),
        notes=("the options are checked at the start: this vLLM was not asked for its own yet",),
        engine="cu129, vLLM 0.11.2",
        command=(
            "vllm",
            "serve",
            "microsoft/phi-4",
            "--served-model-name",
            model,
            "--port",
            "PORT",
        ),
    )


def fleet_file(text: str) -> FleetFile:
    """The file with its problem, or with what applying it would do."""
    lines = tuple(text.splitlines())
    if "modle" in text:
        at = next(i for i, line in enumerate(lines, 1) if "modle" in line)
        why = 'unknown option; did you mean "max_model_len"?'
        trouble = Trouble(at, "models.qwen3-32b.options.max_modle_len", why)
        return FleetFile(PATH, lines, (trouble,))
    changes = (
        FileChange("qwen3-32b", "restart", ("options.max_num_seqs: 128 → 256",)),
        FileChange("phi-4", "update", ("slo.ttft_p95: none → 800ms",)),
    )
    return FleetFile(PATH, lines, (), (), changes, "d1gest")


def looked(verb: str, args: dict[str, Any], text: str) -> dict[str, Any]:
    """The daemon's answer to a command that changes nothing."""
    if verb == "config":
        return dict(to_json(configured(args["model"])))
    return dict(to_json(load_plan(args["model"]) if verb == "load-plan" else fleet_file(text)))


WRONG = 'no model "phi-5"; did you mean "phi-4"?'
AUDIT = tuple(
    AuditEntry(
        seq, f"2026-11-20T{at}+00:00", f"vllm-console/0.1.0 {program}", verb, arguments, outcome,
        0.02, 1000, "ada", 700 + seq,
    )
    for seq, at, program, verb, arguments, outcome in (
        (1, "11:40:02", "up", "load", {"model": "llama-70b"}, "ok"),
        (2, "12:03:57", "console", "scale", {"model": "qwen3-32b", "workers": 2}, "ok"),
        (3, "12:04:11", "load", "load", {"model": "phi-5"}, WRONG),
    )
)  # fmt: skip

_MEDIANS = {
    "ttft": 0.19, "itl": 0.018, "tpot": 0.02, "e2e": 2.4, "queue": 0.03, "prefill": 0.15,
    "decode": 2.1,
}  # fmt: skip


def answered(question: Question) -> Answer:
    """A day with a morning peak, a fault at noon, and a quiet night."""
    since, until = (datetime.fromtimestamp(at, UTC) for at in (question.since, question.until))
    step = question.step or question.until - question.since
    many = max(1, round((question.until - question.since) / step))
    starts = tuple((since + timedelta(seconds=step * i)).isoformat() for i in range(many))
    marks = (
        _mark(since, until, 0.12, "start", "info", "starting"),
        _mark(since, until, 0.14, "start", "ok", "ready in 94.2 s"),
        _mark(since, until, 0.55, "fault", "crit", "failed, out-of-memory: CUDA out of memory"),
        _mark(since, until, 0.62, "start", "ok", "ready in 91.0 s"),
        _mark(since, until, 0.8, "revision", "ok", "revision 4 serves"),
    )
    measured = tuple(_measured(name, many, question.compare) for name in question.metrics)
    return Answer(
        f"model/{question.subject}", since.isoformat(), until.isoformat(), step, starts, measured,
        marks,
    )  # fmt: skip


def _mark(since: datetime, until: datetime, share: float, kind: str, level: str, text: str) -> Mark:
    at = (since + (until - since) * share).isoformat()
    return Mark(at, kind, level, "qwen3-32b-1", text)


def _measured(name: str, many: int, compared: bool) -> Measured:
    median = _MEDIANS[name]

    def step(i: int) -> Figure:
        share = i / many
        if 0.55 < share < 0.62:
            return Figure({"p50": None, "p95": None, "p99": None}, 0)
        busy = 1 + 0.5 * math.sin(share * 9) + 0.25 * math.sin(share * 41)
        values = {"p50": median * busy, "p95": median * 2.1 * busy, "p99": median * 3.2 * busy}
        return Figure(values, 120, coverage=1.0)

    whole = Figure(
        {"p50": median, "p95": median * 2.1, "p99": median * 3.4}, 51_840, coverage=0.96,
        thin=("p99",) if name == "itl" else (),
        between={"p50": (0.0, 0.05)} if name == "queue" else None,
    )  # fmt: skip
    before = Figure(
        {"p50": median * 0.9, "p95": median * 1.7, "p99": median * 3.0}, 48_211, coverage=1.0
    )
    change = {"p95": Change(median * 0.4, 23.5)}
    return Measured(
        name, "s", "distribution", None, whole,
        before if compared else None, change if compared else None,
        steps=tuple(step(i) for i in range(many)),
    )  # fmt: skip
