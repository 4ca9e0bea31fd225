"""Why a worker ended: from the tail of its log, its exit, and whether anybody asked.

vLLM wraps what happens in its engine process: the last exception is "Engine core initialization
failed. See root cause above." So rules are tried in order and the first line that fits a rule
wins, lines of the engine's processes before those of the API server. Texts are vLLM 0.32's unless
said otherwise (the tests have each of them).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_console.snapshot import Failure
from vllm_console.workers.launch import Exit, iso
from vllm_console.workers.redaction import redact
from vllm_console.workers.states import Cause

EXCERPT_LINES = 12
LINE_LENGTH = 400
TAIL_LINES = 400
"""Lines of log that a diagnosis needs: an EngineCore traceback and its wrapper are under 200."""


@dataclass(frozen=True, slots=True)
class _Rule:
    cause: Cause
    pattern: re.Pattern[str]
    remedy: str
    """May name groups of the pattern."""


def _rule(cause: Cause, pattern: str, remedy: str) -> _Rule:
    return _Rule(cause, re.compile(pattern), remedy)


_RULES = (
    _rule(
        Cause.BAD_OPTION,
        r"error: unrecognized arguments: (?P<what>.+)",
        "this vLLM has no such option: take it out of the model's options, or name another engine",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"error: argument (?P<what>\S+?):? (?:invalid|expected)",
        "give {what} a value that this vLLM takes",
    ),
    _rule(Cause.BAD_OPTION, r"port must be 0-65535", "set `port` between 1024 and 65535"),
    _rule(
        Cause.PORT_IN_USE,
        r"Address already in use|error while attempting to bind on address",
        "another process has the port; the next start takes a free one unless `port` is set",
    ),
    _rule(
        Cause.GATED_MODEL,
        r"gated repo|GatedRepoError|Access to model .* is restricted|401 Client Error",
        "ask for access on the model's page, and give the model an HF_TOKEN that has it",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"HFValidationError: Repo id must be",
        "no such directory, and not a hub id: correct `source`",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"LocalEntryNotFoundError|Cannot find an appropriate cached snapshot",
        "not in the local cache and the hub is off limits or out of reach: fetch it first, or unset"
        " HF_HUB_OFFLINE",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"RepositoryNotFoundError|RevisionNotFoundError|is not a local folder and is not a valid"
        r"|404 Client Error",
        "the hub has no such model: correct `source`",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"Can't load the configuration of|does not appear to have a file named config\.json"
        r"|[Nn]o config(?:uration)? file found|Invalid repository ID or local directory",
        "that directory holds no model: correct `source`",
    ),
    _rule(
        Cause.WEIGHTS_BROKEN,
        r"config file at .* is not a valid JSON",
        "the model's config.json is damaged: fetch the model again",
    ),
    _rule(
        Cause.WEIGHTS_BROKEN,
        r"Cannot find any model weights with",
        "the directory has a configuration and no weights: fetch the model again",
    ),
    _rule(
        Cause.WEIGHTS_BROKEN,
        r"SafetensorError|Error while deserializing header|PytorchStreamReader failed",
        "a weight file is damaged or cut short: fetch the model again",
    ),
    _rule(
        Cause.WEIGHTS_BROKEN,
        r"The size of tensor a \(\d+\) must match|size mismatch for|Attempted to load weight",
        "weights and config.json do not belong together: fetch the model again",
    ),
    _rule(
        Cause.UNSUPPORTED_MODEL,
        r"Transformers does not recognize this architecture"
        r"|Model architectures .* are not supported",
        "this vLLM does not know the architecture: use a newer engine for this model",
    ),
    _rule(
        Cause.KV_TOO_SMALL,
        r"To serve at least one request with the model's max seq len.*maximum model length is"
        r" (?P<what>\d+)",
        "set max_model_len to {what} or less, or give the KV cache more memory",
    ),
    _rule(
        Cause.KV_TOO_SMALL,
        r"To serve at least one request|larger than the maximum number of tokens that can be"
        r" stored|No available memory for the cache blocks",
        "lower max_model_len, or raise gpu_memory_utilization",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"Free memory on device .* is less than desired GPU memory utilization",
        "another process holds this GPU's memory: lower gpu_memory_utilization, or free the GPU",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"on kv cache allocation is less than requested memory",
        "lower kv_cache_memory_bytes, or free memory on this machine",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"OutOfMemoryError|CUDA out of memory|HIP out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        "lower gpu_memory_utilization, max_num_seqs or max_model_len, or use more GPUs",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"^MemoryError|std::bad_alloc|Cannot allocate memory|DefaultCPUAllocator: can't allocate",
        "the machine is out of memory: run fewer workers, or a smaller KV cache",
    ),
    _rule(
        Cause.ENGINE_MISSING,
        r"Failed to infer device type",
        "this engine finds no GPU: install the CPU engine (`engines install cpu`), or the driver",
    ),
    _rule(
        Cause.ENGINE_MISSING,
        r"ModuleNotFoundError: No module named|ImportError: |operator torchvision::nms does not"
        r"|PackageNotFoundError",
        "this engine environment is broken: remove it and install it again",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"max_model_len \((?P<what>\d+)\) is greater than the derived max_model_len"
        r" \(max_position_embeddings=(?P<most>\d+)",
        "set max_model_len to {most} or less",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size",
        "set tensor_parallel_size to a divisor of {heads}",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"Cannot find the config file for (?P<what>\w+)",
        "the model is not quantized with {what}: take `quantization` out of its options",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"max_num_batched_tokens \(\d+\) is smaller than max_model_len \((?P<len>\d+)\)",
        "set max_num_batched_tokens to {len} or more, or lower max_model_len",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"Value error, (?P<what>.+)",
        "vLLM refuses these options: change the one that it names",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"validation errors? for (?P<what>\w+Config)",
        "vLLM refuses a value of its {what}: see the next lines of the log",
    ),
    _rule(
        Cause.ENGINE_DIED,
        r"died unexpectedly|EngineDeadError|engine core exited unexpectedly",
        "the engine process ended under a running server: see the log before this line",
    ),
)

_WHILE_SERVING = frozenset({Cause.OUT_OF_MEMORY, Cause.ENGINE_DIED})
"""The others end a start: in the log of a worker that served, such a line was something else."""

_LINE = re.compile(
    r"(?:\((?P<process>[\w-]+)(?: pid=\d+)?\) )?"
    r"(?:(?P<level>[A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]+\] ?)?"
    r"(?P<text>.*)"
)
_EXCEPTION = re.compile(r"^(?:[\w.]*\.)?\w*(?:Error|Exception|Exit|Interrupt)\b: ?\S")
_WRAPPER = re.compile(r"Engine core initialization failed|EngineDeadError")
_ENDS = re.compile(r"(?P<told>shutdown triggered)|exited unexpectedly|died unexpectedly")
_MODULE = re.compile(r"^(?:[A-Za-z_]\w*\.)+(?=\w+:)")
_PYDANTIC = re.compile(r"\s*\[type=\w+, input_value=.*$")


@dataclass(frozen=True, slots=True)
class _Said:
    """One line of the log, taken apart."""

    index: int
    text: str
    engine: bool
    """Said by a process of the engine, not by the API server that wraps it."""
    serious: bool
    """Not marked as a mere warning or information."""


def diagnose(log: Sequence[str], end: Exit, *, served: bool) -> Failure:
    """The failure that an unasked end amounts to.

    `log`: the last lines of this start as plain text, oldest first. `served`: whether it had been
    ready. Secrets are blanked out of everything that is passed on.
    """
    lines = [line for raw in log if (line := raw.rstrip())]
    cause, line, remedy, index = _cause(lines, end, served)
    first = max(0, min(index - EXCERPT_LINES // 2, len(lines) - EXCERPT_LINES))
    return Failure(
        cause=cause,
        line=redact(_tidy(line)),
        remedy=redact(remedy),
        at=iso(end.at),
        exit_code=end.rc,
        log_excerpt=tuple(
            redact(text)[:LINE_LENGTH] for text in lines[first : first + EXCERPT_LINES]
        ),
    )


def _cause(lines: list[str], end: Exit, served: bool) -> tuple[Cause, str, str, int]:
    """Cause, telling line, remedy, and the index of the line to show around."""
    said = [_said(index, line) for index, line in enumerate(lines)]
    engine_first = sorted(said, key=lambda one: not one.engine)
    bottom = len(lines)

    if end.rc == -signal.SIGKILL:
        remedy = "by a person, or by the kernel short of memory: `dmesg | grep -i oom` tells"
        return Cause.KILLED, "killed by SIGKILL", remedy, bottom
    told = next((found for one in said if (found := _ENDS.search(one.text))), None)
    if told is not None and told["told"]:
        remedy = "a person or another program sent `vllm serve` a signal; load it again"
        return Cause.KILLED, "was told to shut down, not by this console", remedy, bottom
    root = _root(said)
    for rule in _RULES:
        for one in engine_first:
            if not one.serious or (served and rule.cause not in _WHILE_SERVING):
                continue
            if found := rule.pattern.search(one.text):
                if rule.cause is Cause.ENGINE_DIED and root is not None:
                    one = root
                return rule.cause, one.text, rule.remedy.format(**found.groupdict()), one.index
    if root is not None:
        return Cause.UNKNOWN, root.text, "in vLLM's own words; its log has the rest", root.index
    if end.rc is not None and end.rc < 0:
        remedy = "a person or another program sent it that signal, or it crashed"
        return Cause.KILLED, f"ended by {_signal_name(-end.rc)}", remedy, bottom
    how = "without an exit code" if end.rc is None else f"with exit code {end.rc}"
    last = f"its last line: {lines[-1]}" if lines else "it wrote no log"
    return Cause.UNKNOWN, f"ended {how}, unasked; {last}", "its log may tell more", bottom


def _said(index: int, line: str) -> _Said:
    parts = _LINE.fullmatch(line)
    if parts is None:
        return _Said(index, line, False, True)
    text = parts["text"]
    mild = parts["level"] in ("DEBUG", "INFO", "WARNING") or text.startswith(("INFO:", "WARNING:"))
    engine = (parts["process"] or "").startswith(("EngineCore", "Worker", "VllmWorker"))
    return _Said(index, text, engine, not mild)


def _root(said: list[_Said]) -> _Said | None:
    """The last exception of the engine, or else of anybody, that is not a wrapper of another."""
    raised = [one for one in said if _EXCEPTION.match(one.text) and not _WRAPPER.search(one.text)]
    return next(reversed([one for one in raised if one.engine] or raised), None)


def _tidy(line: str) -> str:
    """One exception line without its module path, pydantic's tail, and at a readable length."""
    line = _PYDANTIC.sub("", line.strip())
    line = _MODULE.sub("", line).removeprefix("Value error, ")
    return line if len(line) <= LINE_LENGTH else line[: LINE_LENGTH - 1] + "…"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
