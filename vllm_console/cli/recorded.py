"""What verbs show while no daemon runs: the records of the fleet's history file, only read."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from typing import TypeVar

from vllm_console.errors import ConsoleError, NoDaemon
from vllm_console.fleet.find import Place

R = TypeVar("R")


def from_file(place: Place, no_daemon: NoDaemon, read: Callable[[sqlite3.Connection], R]) -> R:
    """What `read` finds in the file, after a line on stderr that says where it is from.

    Raises `no_daemon` when there is no file either, `ConsoleError` when it cannot be read.
    """
    try:
        found = read_file(place, read)
    except FileNotFoundError:
        raise no_daemon from None
    print(f"no daemon runs; this is what {place.history} holds", file=sys.stderr)
    return found


def read_file(place: Place, read: Callable[[sqlite3.Connection], R]) -> R:
    """What `read` finds in the file, whether a daemon writes it or not.

    Raises `FileNotFoundError` when there is none, `ConsoleError` when it cannot be read.
    """
    from vllm_console.history.codec import NotAChunk
    from vllm_console.history.file import reading
    from vllm_console.history.schema import STEPS, version_of

    try:
        with reading(place.history) as connection:
            if (version := version_of(connection)) > len(STEPS):
                raise ConsoleError(
                    f"{place.history}: is of a newer vllm-console (schema {version}, this one "
                    f"knows {len(STEPS)}); read it with that version"
                )
            return read(connection)
    except (FileNotFoundError, BrokenPipeError):
        raise
    except (sqlite3.Error, OSError, NotAChunk) as error:
        raise ConsoleError(
            f"{place.history}: cannot be read ({error}); a daemon moves a damaged file aside: "
            "`vllm-console up -d`"
        ) from None
