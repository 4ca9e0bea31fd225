"""Which fleet file is meant, and where that fleet keeps its state. Stdlib only: cheap to import."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_console.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Place:
    """A fleet file and the directory that holds all state of its fleet."""

    fleet_file: Path
    name: str
    state_dir: Path

    @property
    def socket(self) -> Path:
        """The control socket (0600). A path too long for a socket address moves to /tmp."""
        path = self.state_dir / "control.sock"
        if len(os.fsencode(path)) < _SOCKET_PATH_MAX:
            return path
        import hashlib

        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(f"/tmp/vllm-console-{os.getuid()}") / f"{digest}.sock"

    @property
    def workers(self) -> Path:
        """One directory a worker."""
        return self.state_dir / "workers"

    @property
    def history(self) -> Path:
        """Events, audit and revisions: one SQLite file."""
        return self.state_dir / "history.sqlite"

    @property
    def gateway(self) -> Path:
        """The gateway's files; `vllm_console.gateway.place` lists them."""
        return self.state_dir / "gateway"

    @property
    def accounts(self) -> Path:
        """The clients' keys and what they used: one SQLite file."""
        return self.state_dir / "gateway.sqlite"

    @property
    def daemon_log(self) -> Path:
        """What the daemon writes to its stderr."""
        return self.state_dir / "daemon.log"


_SOCKET_PATH_MAX = 108
"""sun_path holds 108 bytes with its terminating NUL (Linux, unix(7))."""


def find_fleet(explicit: str | Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The fleet file: the one named, ./fleet.toml, or $XDG_CONFIG_HOME/vllm-console/fleet.toml.

    Raises `InvalidInput` when there is none.
    """
    if explicit is not None:
        path = Path(explicit)
        if not path.is_file():
            what = "is a directory" if path.is_dir() else "no such file"
            raise InvalidInput(f"{path}: {what}; --fleet takes the path of a fleet.toml")
        return path.absolute()
    config = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = (Path("fleet.toml"), config / "vllm-console" / "fleet.toml")
    for path in places:
        if path.is_file():
            return path.absolute()
    raise InvalidInput(
        f"no fleet file: looked at ./{places[0]} and {places[1]}; "
        "name one with --fleet FILE, or try `vllm-console demo`"
    )


def locate(
    fleet: str | Path | None,
    state_dir: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Place:
    """The place of a fleet, reading no more of its file than the name and the state directory.

    Raises `InvalidInput` for a missing or broken file.
    """
    path = find_fleet(fleet, environ)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("fleet", {})
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path}: not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from None
    table = table if isinstance(table, dict) else {}
    name = table.get("name")
    name = name if isinstance(name, str) and name else path.parent.name or "fleet"
    chosen = state_dir or environ.get("VLLM_CONSOLE_STATE_DIR") or table.get("state_dir")
    if isinstance(chosen, (str, Path)):
        root = (path.parent if not state_dir else Path.cwd()) / Path(chosen).expanduser()
    else:
        state = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        root = state / "vllm-console" / name
    return Place(path, name, root.absolute())


def panels_dir(place: Place) -> Path | None:
    """The user's panel folder, `[ui] panels` of the fleet file; `None` for the built-in ones."""
    ui = tomllib.loads(place.fleet_file.read_text(encoding="utf-8")).get("ui", {})
    folder = ui.get("panels") if isinstance(ui, dict) else None
    return place.fleet_file.parent / Path(folder).expanduser() if isinstance(folder, str) else None
