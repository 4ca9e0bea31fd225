"""The gateway's directory: who holds it, and how the gateway in it is to serve.

config.json   how to serve, written by the daemon before it starts one
lock          held open and locked (flock) by the gateway that serves; a new one is handed it
record.json   that gateway: pid, start time, boot id, version, where it serves
table.json    the newest routing table, without any key
gateway.log   what it says; access.jsonl: requests, if they are to be logged
link.sock, handover.sock   see `vllm_console.gateway.link`
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import msgspec

from vllm_console.errors import ConsoleError
from vllm_console.gateway.table import Table, decoded, encoded

_FILE_MAX = 64 << 20


class Config(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What a gateway has to know before it serves; everything else is in the routing table."""

    host: str = "127.0.0.1"
    port: int = 4000
    """0 is any that is free."""
    tls_cert: str | None = None
    tls_key: str | None = None

    @cached_property
    def digest(self) -> str:
        """Equal digests mean that a gateway need not be started anew."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway that holds the lock, by its own word."""

    pid: int
    start: int
    """Clock ticks since boot."""
    boot: str
    version: str
    url: str
    started_at: float
    """Seconds since the epoch."""

    def is_of(self, start: int) -> bool:
        """Whether the process of this pid, which began at `start`, is the one meant."""
        return self.start == start and self.boot == boot_id()


def boot_id() -> str:
    """The id of this boot: pids and start times mean nothing across a reboot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_time(pid: int) -> int:
    """When a process began, in clock ticks since boot; raises `OSError`."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat.rpartition(b")")[2].split()[19])


def is_held(directory: Path) -> bool:
    """Whether a gateway serves here, by its lock."""
    try:
        lock = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def acquire(directory: Path) -> int | None:
    """The lock, held for as long as the descriptor is open; `None` where somebody else has it.

    Raises `ConsoleError` where the directory cannot be written to.
    """
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConsoleError(
            f"{directory}: no place for the gateway's files ({error.strerror}); "
            "give it back to this user, or choose another --state-dir"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def read_config(directory: Path) -> Config:
    """How to serve; raises `ConsoleError` where that is not said."""
    path = directory / "config.json"
    try:
        return msgspec.json.decode(_read(path), type=Config)
    except OSError as error:
        reason = error.strerror
    except msgspec.DecodeError as error:
        reason = str(error)
    raise ConsoleError(
        f"{path}: {reason}; the fleet's daemon writes it: start it with `vllm-console up -d`"
    )


def write_config(directory: Path, config: Config) -> None:
    """Say how to serve; raises `OSError`."""
    replace(directory / "config.json", msgspec.json.encode(config))


def read_record(directory: Path) -> Record | None:
    """The gateway that held the lock last; `None` where nothing sound is written."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(_read(directory / "record.json"), type=Record)
    return None


def write_record(directory: Path, record: Record) -> None:
    """Say who holds the lock; raises `OSError`."""
    replace(directory / "record.json", msgspec.json.encode(record))


def read_table(directory: Path) -> Table | None:
    """The last table that was kept; `None` where there is none that can be read."""
    with suppress(OSError, ValueError):
        return decoded(_read(directory / "table.json"))
    return None


def write_table(directory: Path, table: Table) -> None:
    """Keep a table, without the keys that attached servers want; raises `OSError`.

    Workers that want a key are left out: without it they would refuse every request.
    """
    models = tuple(
        msgspec.structs.replace(m, workers=tuple(w for w in m.workers if w.api_key is None))
        for m in table.models
    )
    replace(directory / "table.json", encoded(msgspec.structs.replace(table, models=models)))


def replace(path: Path, content: bytes) -> None:
    """Write a file anew, in one step, for this user alone; raises `OSError`."""
    fresh = path.with_name(f"{path.name}.new")
    opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(opened, "wb") as file:
        file.write(content)
    fresh.replace(path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_FILE_MAX)
