"""A systemd scope for each shim, where systemd runs: a logout or a stopped unit spares it then."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

PROBE_S = 0.8
"""systemd answers in some 20 ms; what takes longer than this is not used."""
_SYSTEM = Path("/run/systemd/system")
"""Exists while systemd is PID 1 (sd_booted(3))."""
_REACHES = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
"""What systemd-run needs of the environment to find the manager of its user."""
_ADDED = "INVOCATION_ID"
"""What systemd-run may add to the environment."""


class Scopes:
    """Says, once asked for the first time, whether programs can be started in scopes."""

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        *,
        system: Path = _SYSTEM,
        root: bool | None = None,
    ) -> None:
        """`root` (default: whether we are) asks the manager of the machine, not of the user."""
        self._environ = environ
        self._system = system
        self._root = os.geteuid() == 0 if root is None else root
        self._program: str | None = None
        self._probed = False

    def wrap(
        self, argv: list[str], environment: Mapping[str, str], name: str
    ) -> tuple[list[str], dict[str, str]]:
        """The command and environment that start `argv` with `environment` in a scope of its own.

        Both unchanged where there are no scopes. `--scope` executes the program in place, so that
        the environment is inherited and no value of it is on a command line.
        """
        program = self._found()
        if program is None:
            return argv, dict(environment)
        reach = {key: self._environ[key] for key in _REACHES if key in self._environ}
        extra = sorted({*reach, _ADDED} - set(environment))
        plain = ["/usr/bin/env", *(word for key in extra for word in ("-u", key)), *argv]
        command = [*self._command(program), f"--description=vLLM worker {name}", "--", *plain]
        return command, {**environment, **reach}

    def give_up(self) -> bool:
        """Start in no scope from now on; False if that was so before."""
        had, self._program, self._probed = self._program is not None, None, True
        return had

    def _found(self) -> str | None:
        if not self._probed:
            self._probed = True
            self._program = self._probe()
        return self._program

    def _probe(self) -> str | None:
        """systemd-run, if it starts a scope here; tried only where a manager seems to run."""
        program = shutil.which("systemd-run", path=self._environ.get("PATH", os.defpath))
        if program is None or not self._manager_runs() or not os.path.exists("/usr/bin/env"):
            return None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [*self._command(program), "--", "/bin/true"],
                env=dict(self._environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=PROBE_S,
                check=False,
            )
            return program if done.returncode == 0 else None
        return None

    def _manager_runs(self) -> bool:
        if self._root:
            return self._system.is_dir()
        runtime = self._environ.get("XDG_RUNTIME_DIR")
        return runtime is not None and os.path.exists(f"{runtime}/systemd/private")

    def _command(self, program: str) -> list[str]:
        manager = "--system" if self._root else "--user"
        return [program, manager, "--scope", "--quiet", "--collect", "--property=Delegate=yes"]
