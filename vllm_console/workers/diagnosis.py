"""Why a worker ended: from the tail of its log, its exit, and whether anybody asked.

vLLM wraps what happens in its engine process: the last exception is "Engine core initialization
failed. See root cause above." So rules are tried in order and the first line that fits a rule
wins, lines of the engine's processes before those of the API server. Texts are vLLM 0.32's unless
said otherwise (evidence for each is in the tests).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_console.snapshot import Failure
from vllm_console.workers.launch import Exit, iso
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

_LINE = re.compile(
    r"(?:\((?P<process>[\w-]+)(?: pid=\d+)?\) )?"
    r"(?:(?P<level>[A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]+\] ?)?"
    r"(?P<text>.*)"
)
_EXCEPTION = re.compile(r"^(?:[\w.]*\.)?\w*(?:Error|Exception|Exit|Interrupt)\b: ?\S")
_WRAPPER = re.compile(r"Engine core initialization failed|EngineDeadError")
_MODULE = re.compile(r"^(?:[A-Za-z_]\w*\.)+(?=\w+:)")
_PYDANTIC = re.compile(r"\s*\[type=\w+, input_value=.*$")


def diagnose(
    log: Sequence[str], exit: Exit, *, served: bool, name: str = "the worker"
) -> Failure:
    """The failure that an unasked end amounts to.

    `log`: the last lines of this start as plain text, oldest first. `served`: whether it had been
    ready. Secrets are blanked out of everything that is passed on.
    """
    lines = [line for raw in log if (line := raw.rstrip())]
    at = iso(exit.at)
    excerpt = tuple(redact(line)[:LINE_LENGTH] for line in lines[-EXCERPT_LINES:])
    parsed = [m.group("process") or "" for m in map(_LINE.fullmatch, lines) if m]
    texts = [m.group("text") for m in map(_LINE.fullmatch, lines) if m]
    order = sorted(range(len(texts)), key=lambda i: _outer(parsed[i]))

    def failure(cause: Cause, line: str, remedy: str, near: int | None = None) -> Failure:
        around = excerpt
        if near is not None:
            first = max(0, min(near - EXCERPT_LINES // 2, len(lines) - EXCERPT_LINES))
            around = tuple(
                redact(text)[:LINE_LENGTH] for text in lines[first : first + EXCERPT_LINES]
            )
        return Failure(cause, redact(_tidy(line)), remedy, at, exit.rc, around)

    if exit.rc == -signal.SIGKILL:
        said = _last(texts, r"out of memory|MemoryError|bad_alloc")
        if said is None:
            line = "killed by SIGKILL"
            remedy = "by a person, or by the kernel short of memory: `dmesg | grep -i oom` tells"
            return failure(Cause.KILLED, line, remedy)
    for rule in _RULES:
        for index in order:
            found = rule.pattern.search(texts[index])
            if found and _tells(rule, texts[index], served):
                remedy = rule.remedy.format(**found.groupdict())
                return failure(rule.cause, texts[index], redact(remedy), index)
    for index in sorted(order, key=lambda i: (_outer(parsed[i]), -i)):
        if _EXCEPTION.match(texts[index]) and not _WRAPPER.search(texts[index]):
            remedy = f"vLLM's own words; more in the log of {name}"
            return failure(Cause.UNKNOWN, texts[index], remedy, index)
    if exit.rc is not None and exit.rc < 0:
        line = f"ended by {_signal_name(-exit.rc)}"
        return failure(Cause.KILLED, line, "a person or another program sent it that signal")
    rc = "without an exit code" if exit.rc is None else f"with exit code {exit.rc}"
    last = f"; its last line: {lines[-1]}" if lines else "; it wrote no log"
    return failure(
        Cause.UNKNOWN, f"ended {rc}, unasked{last}", f"the log of {name} may tell more"
    )


def redact(text: str) -> str:
    """The text with tokens, keys and passwords blanked out."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _outer(process: str) -> int:
    """0 for a line of the engine's own processes, 1 for the API server's and unmarked ones."""
    return 0 if process.startswith(("EngineCore", "Worker", "VllmWorker")) else 1


def _tells(rule: _Rule, text: str, served: bool) -> bool:
    """A word in passing is no cause: configuration errors end a start, not a serving worker."""
    if rule.cause is Cause.ENGINE_DIED:
        return True
    if served and rule.cause not in (Cause.OUT_OF_MEMORY,):
        return False
    return not text.startswith("INFO")


def _last(texts: Sequence[str], pattern: str) -> str | None:
    return next((text for text in reversed(texts) if re.search(pattern, text)), None)


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


_BLANK = "•••"
_SECRETS = (
    (re.compile(r"\b(?:hf_|sk-|gh[opsu]_|nvapi-|AKIA)[A-Za-z0-9_\-]{6,}"), _BLANK),
    (re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic)\s+)?[^\s'\"]+"), rf"\1{_BLANK}"),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=\-]{6,}"), rf"\1{_BLANK}"),
    (re.compile(r"(?i)(://[^/\s:@]+:)[^/\s@]+(?=@)"), rf"\1{_BLANK}"),
    (
        re.compile(
            r"(['\"]?\b(?:[A-Z0-9_]*(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)"
            r"|(?:[a-z0-9_]*_)?(?:api[-_]?key|auth[-_]?token|access[-_]?token|hf[-_]?token|secret|password))"
            r"['\"]?\s*[=:]\s*)(\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^\s,;)}]+)"
        ),
        rf"\1{_BLANK}",
    ),
    (re.compile(r"(--(?:api-key|hf-token)[= ])\S+"), rf"\1{_BLANK}"),
)
