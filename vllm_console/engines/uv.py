"""uv as the installer: finding it, running it with progress, saying in one line why it failed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vllm_console.errors import ConsoleError, InvalidInput

TICK_S = 0.5
"""How often `idle` is called while uv says nothing."""

_DIES_WITH_PARENT = [
    *(sys.executable, "-I", "-S", "-c"),
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])",
]
"""Runs a command that Linux ends (SIGTERM) when this process ends, however that happens: prctl(2),
PR_SET_PDEATHSIG, which lasts through exec. Python's `preexec_fn` is not safe beside threads."""

_GRACE_S = 5.0
"""How long a stopped uv may take to end before it is killed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an installation is; `done` of `total` in the stage's own unit, `None` if unknown."""

    stage: str
    """waiting, python, resolving, downloading, installing, compiling, verifying, installed."""
    done: int | None = None
    total: int | None = None
    detail: str = ""
    """What is being worked on, e.g. "torch (182.9MiB), numpy (16.1MiB)"."""


class UvFailed(ConsoleError):
    """uv ended with an error; `lines` is all it said."""

    def __init__(self, line: str, lines: Sequence[str], network: bool) -> None:
        super().__init__(line)
        self.lines = lines
        self.network = network
        """Whether the index could not be reached."""


def find_uv(environ: Mapping[str, str] = os.environ, *, beside: Path | None = None) -> list[str]:
    """The command that runs uv: $VLLM_CONSOLE_UV, beside the console's Python, on PATH, as module.

    Raises `InvalidInput` for a $VLLM_CONSOLE_UV that cannot be run, `ConsoleError` without any uv.
    """
    chosen = environ.get("VLLM_CONSOLE_UV")
    if chosen:
        program = shutil.which(os.path.expanduser(chosen), path=environ.get("PATH", os.defpath))
        if program is None:
            raise InvalidInput(f"VLLM_CONSOLE_UV={chosen}: no such program")
        return [os.path.abspath(program)]
    own = (beside or Path(sys.executable).parent) / "uv"
    if os.access(own, os.X_OK):
        return [str(own)]
    on_path = shutil.which("uv", path=environ.get("PATH", os.defpath))
    if on_path is not None:
        return [os.path.abspath(on_path)]
    if importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    raise ConsoleError("uv is missing: pip install uv")


def run_uv(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    idle: Callable[[], None],
    environ: Mapping[str, str],
    lock: int,
) -> None:
    """Run uv to its end; every line of its stderr goes to `on_line`, `idle` is called in between.

    uv has its own process group, so that whatever ends this call early (Ctrl-C) ends uv and its
    compilers too. A killed console takes uv with it; and since uv inherits the descriptor `lock`,
    whoever waits for that lock waits until uv is gone. Its directory is /, since uv would take
    settings from a project it is run in. Raises `UvFailed`.
    """
    process = subprocess.Popen(
        [*_DIES_WITH_PARENT, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        env=_environment(environ),
        pass_fds=(lock,),
        start_new_session=True,
    )
    lines: list[str] = []
    try:
        assert process.stderr is not None
        _read_lines(process.stderr.fileno(), lines, on_line, idle)
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    finally:
        if process.stderr is not None:
            process.stderr.close()
    if code != 0:
        text, network = telling_line(lines, code)
        raise UvFailed(text, lines, network)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's variables without those that would hide uv's progress or colour its lines."""
    hiding = (
        "UV_QUIET",
        "UV_NO_PROGRESS",
        "UV_PREVIEW",
        "FORCE_COLOR",
        "CLICOLOR_FORCE",
        "RUST_LOG",
    )
    return {**{k: v for k, v in environ.items() if k not in hiding}, "NO_COLOR": "1"}


def _read_lines(
    stream: int, lines: list[str], on_line: Callable[[str], None], idle: Callable[[], None]
) -> None:
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(TICK_S):
                idle()
                continue
            chunk = os.read(stream, 65536)
            *whole, rest = (rest + chunk).split(b"\n")
            for raw in whole if chunk else [*whole, rest]:
                lines.append(raw.decode("utf-8", "replace").rstrip())
                on_line(lines[-1])
            if not chunk:
                return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End uv's whole process group, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


_CAUSE = re.compile(r"^\s*(?:cause|Caused by):\s*|^\s*(?:╰─▶|×|├─▶)\s*")
_NETWORK = re.compile(
    r"error sending request|dns error|tcp connect|connection (?:refused|reset|closed)|timed out|"
    r"failed to fetch|failed to download|network is unreachable|certificate|http status",
    re.IGNORECASE,
)


def telling_line(lines: Sequence[str], code: int) -> tuple[str, bool]:
    """(why uv failed in one line, whether the network is the cause)."""
    start = next((n for n, line in enumerate(lines) if re.match(r"error:|\s+×", line)), None)
    if start is None:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"uv ended with {ended}: {last}", False
    causes: list[str] = []
    for line in lines[start:]:
        if not line.strip() or line.startswith("hint:"):
            break
        text = _CAUSE.sub("", line).removeprefix("error:").strip()
        if _CAUSE.match(line) or line.startswith("error:") or not causes:
            causes.append(text)
        else:  # a long cause, wrapped
            causes[-1] += " " + text.lstrip("│ ")
    whole = " ".join(causes)
    last = re.sub(r"\s*\(os error \d+\)$", "", causes[-1])
    if re.search(r"No space left on device|Disk quota exceeded", whole):
        return f"the disk is full: {causes[0]}", False
    if _NETWORK.search(whole) and "No solution found" not in whole:
        url = re.search(r"https?://[^\s`'\")]+", whole)
        return f"cannot reach the package index{_origin(url[0]) if url else ''}: {last}", True
    if because := re.search(r"\bBecause (.+?)(?:, we can conclude|\.?$)", whole):
        return f"no set of packages fits: {because[1]}", False
    return (causes[0] if len(causes) == 1 else f"{causes[0]}: {last}"), False


def _origin(url: str) -> str:
    """Scheme and host of a URL; a name and password in it stay out of what users see."""
    parts = urlsplit(url)
    return f" at {parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@dataclass(slots=True)
class Stages:
    """Turns uv's lines into `Progress`.

    uv says which packages it begins and ends to download only for those over about 1 MB; these
    are nearly all of the bytes, so they are what is counted.
    """

    on_progress: Callable[[Progress], None]
    begun: dict[str, str] = field(default_factory=dict)
    """Package -> its size as uv words it."""
    ended: set[str] = field(default_factory=set)
    compiling: bool = False
    """Whether uv has come to its last stage, in which it says nothing more."""

    def line(self, line: str) -> None:
        """Take one line of uv's stderr."""
        words = line.split()
        if line.startswith("Resolved "):
            self._report("downloading", None, None, line)
        elif len(words) == 3 and words[0] == "Downloading":
            self.begun[words[1]] = words[2].strip("()")
            self._downloads()
        elif len(words) == 2 and words[0] == "Downloaded":
            self.ended.add(words[1])
            self._downloads()
        elif line.startswith("Prepared "):
            self._report("installing", None, None, line)
        elif line.startswith("Installed "):
            self.compiling = True
            self._report("compiling", 0, None, line)

    def _downloads(self) -> None:
        left = [f"{name} ({size})" for name, size in self.begun.items() if name not in self.ended]
        detail = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        self._report("downloading", len(self.ended), len(self.begun), detail)

    def _report(self, stage: str, done: int | None, total: int | None, detail: str) -> None:
        self.on_progress(Progress(stage, done, total, detail))
