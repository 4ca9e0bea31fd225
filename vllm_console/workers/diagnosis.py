"""Why a worker ended: from the tail of its log, its exit, and whether anybody asked.

vLLM wraps what happens in its engine process: the last exception is "Engine core initialization
failed. See root cause above." So rules are tried in order and the first line that fits a rule
wins, lines of the engine's processes before those of the API server. The rules are a table of
their own, `workers.known_failures`.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_console.snapshot import Failure
from vllm_console.workers.known_failures import LOADED, NO_FAILURE, RULES, WHILE_SERVING, Told
from vllm_console.workers.launch import Exit, iso
from vllm_console.workers.redaction import redact
from vllm_console.workers.states import Cause

EXCERPT_LINES = 12
LINE_LENGTH = 400
TAIL_LINES = 400
"""Lines of log that a diagnosis needs: an EngineCore traceback and its wrapper are under 200."""


_LINE = re.compile(
    r"(?:\((?P<process>[\w-]+)(?: pid=\d+)?\) )?"
    r"(?:(?P<level>[A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]+\] ?)?"
    r"(?P<text>.*)"
)
_EXCEPTION = re.compile(r"^(?:[\w.]*\.)?\w*(?:Error|Exception|Exit|Interrupt)\b: ?\S")
_WRAPPER = re.compile(r"Engine core initialization failed|EngineDeadError")
_ENDS = re.compile(r"(?P<told>shutdown triggered)|exited unexpectedly|died unexpectedly")
_CODE = re.compile(
    r"\s{4,}(?:raise|return|assert|with|await|yield|if|super\(|f?['\"]|\w+(?:\.\w+)*\s*[=(])"
)
"""A line of a traceback that quotes a program: it holds the words of errors that did not happen."""
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
    """Not marked as a mere warning or information, and no quoted program."""


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
    end_said = next((found for one in said if (found := _ENDS.search(one.text))), None)
    if end_said is not None and end_said["told"]:
        remedy = "a person or another program sent `vllm serve` a signal; load it again"
        return Cause.KILLED, "was told to shut down, not by this console", remedy, bottom
    root = _root(said)
    loaded_at = next((one.index for one in said if LOADED.search(one.text)), bottom)
    for rule in RULES:
        for one in engine_first:
            if not one.serious or (served and rule.cause not in WHILE_SERVING):
                continue
            if found := rule.pattern.search(one.text):
                groups = {name: text for name, text in found.groupdict().items() if text}
                before = said[one.index - 1].text if one.index else ""
                told = Told(groups, before, loaded_at < one.index, served)
                if rule.cause is Cause.ENGINE_DIED and root is not None:
                    one = root
                return rule.cause, one.text, rule.advice(told), one.index
    if root is not None:
        return Cause.UNKNOWN, root.text, "in vLLM's own words; its log has the rest", root.index
    wrapped = next((one for one in said if _WRAPPER.search(one.text)), None)
    if wrapped is not None:
        remedy = "it ended without a word, most likely killed: `dmesg | grep -i oom` tells"
        return Cause.ENGINE_DIED, wrapped.text, remedy, wrapped.index
    if end.rc is not None and end.rc < 0:
        remedy = "a person or another program sent it that signal, or it crashed"
        if end.rc == -signal.SIGBUS:
            remedy = "shared memory ran out, most likely: make /dev/shm bigger (`df -h /dev/shm`)"
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
    return _Said(index, text, engine, not mild and not _CODE.match(text))


def _root(said: list[_Said]) -> _Said | None:
    """The last exception of the engine, or else of anybody, that is not a wrapper of another."""
    raised = [one for one in said if _EXCEPTION.match(one.text) and not _passed_over(one.text)]
    return next(reversed([one for one in raised if one.engine] or raised), None)


def _passed_over(text: str) -> bool:
    return bool(_WRAPPER.search(text) or NO_FAILURE.search(text))


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
