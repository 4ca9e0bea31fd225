"""The exception tree of everything a user can get wrong or run into.

    ConsoleError                 exit 1  the thing asked about failed
    ├── InvalidInput             exit 2  wrong usage, or a fleet.toml that does not hold
    ├── NoDaemon                 exit 3  nothing answers on this fleet's socket
    ├── NotFound                 exit 4  no such model, worker or engine environment
    └── TimedOut                 exit 5  it did not happen in the time allowed

A message is one line that names the thing, the place and the way out. Anything that is not a
`ConsoleError` is a bug and keeps its traceback (in the log, never in a user's face).
"""

from __future__ import annotations


class ConsoleError(Exception):
    """The thing asked about failed. `str(error)` is the one line the user reads."""

    exit_code = 1


class InvalidInput(ConsoleError):
    """Wrong usage or invalid configuration."""

    exit_code = 2


class NoDaemon(ConsoleError):
    """No daemon answers on the fleet's control socket."""

    exit_code = 3


class NotFound(ConsoleError):
    """No model, worker or engine environment of that name."""

    exit_code = 4


class TimedOut(ConsoleError):
    """It did not happen in the time allowed."""

    exit_code = 5
