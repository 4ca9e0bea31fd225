"""The traffic process as its parent sees it: aim it, read its summary, stop it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vllm_console.errors import ConsoleError
from vllm_console.snapshot import from_json, to_json
from vllm_console.traffic.generate import Target
from vllm_console.traffic.summary import Summary

NOTHING_YET = Summary(seconds=0.0, in_flight=0, dropped=0, unrouted=0, first_token_at=None)


class TrafficProcess:
    """`python -m vllm_console.traffic` and its two pipes.

    A process, not a thread: it never competes with a console for the interpreter lock, and its
    stdin ends with us, so that no traffic outlives a parent that is killed.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        trace: Path | None = None,
        prompt: float | None = None,
        output: float | None = None,
        seed: int = 0,
        drain_s: float = 10.0,
    ) -> None:
        command = [sys.executable, "-m", "vllm_console.traffic", "--seed", str(seed)]
        for option, value in (
            ("--rate", rate),
            ("--trace", trace),
            ("--prompt", prompt),
            ("--output", output),
            ("--drain", drain_s),
        ):
            if value is not None:
                command += [option, str(value)]
        self._drain_s = drain_s
        self._summary = NOTHING_YET
        self._targets: list[Target] | None = None
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._words = b""
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._read, self._listen)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process id of the generator."""
        return self._process.pid

    @property
    def summary(self) -> Summary:
        """The newest summary; at most a second old while traffic runs."""
        return self._summary

    def check(self) -> None:
        """Raises `ConsoleError` with the generator's last words if it has ended unasked."""
        code = self._process.poll()
        if code is not None:
            self._readers[1].join(1.0)
            words = self._words.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ConsoleError(f"the traffic generator ended: {words or f'exit code {code}'}")

    def aim(self, targets: Sequence[Target]) -> None:
        """Sends requests to these targets from now on; does nothing when they are the same."""
        if list(targets) == self._targets:
            return
        self._targets = list(targets)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(to_json(self._targets)).encode() + b"\n")
            self._process.stdin.flush()

    def stop(self, *, drain: bool = True) -> Summary:
        """Ends the traffic, after the answers under way if `drain`, and gives the last summary."""
        process = self._process
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        if not drain and process.poll() is None:
            process.terminate()
        try:
            process.wait(self._drain_s + 5.0 if drain else 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join(5.0)
        return self._summary

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._summary = from_json(Summary, json.loads(line))

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as words:
            for line in words:
                self._words = (self._words + line)[-4096:]
