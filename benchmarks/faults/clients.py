"""Clients of workers: streams kept open against each of them, and what became of every request."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from urllib.parse import urlsplit

ANSWER_S = 60.0
"""A stream silent for this long is lost."""


@dataclass
class Counted:
    """What became of the requests so far."""

    sent: int = 0
    completed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why requests were lost, and how many for each reason."""

    @property
    def lost(self) -> int:
        """Requests that got no complete answer."""
        return sum(self.reasons.values())


class Clients:
    """Keeps `streams` streamed completions open against every worker while it is entered.

    A request is complete when its stream ends with `[DONE]`; anything else loses it. Leaving waits
    for the requests in flight: none is cut off by the client.
    """

    def __init__(
        self,
        targets: Mapping[str, tuple[str, str]],
        *,
        streams: int = 1,
        tokens: int = 40,
        prompt: str = "The quick brown fox",
    ) -> None:
        """`targets`: (url, model name) by worker id."""
        self.counted = Counted()
        self._body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=target, daemon=True, name=f"client of {worker}")
            for worker, target in targets.items()
            for _ in range(streams)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> Counted:
        """Send no more, wait for the answers under way, and tell what became of all."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_S)
        return self.counted

    def _run(self, url: str, model: str) -> None:
        while not self._over.is_set():
            with self._lock:
                self.counted.sent += 1
            reason = completion(url, {**self._body, "model": model})
            with self._lock:
                if reason is None:
                    self.counted.completed += 1
                else:
                    self.counted.reasons[reason] += 1
            if reason is not None:
                self._over.wait(0.05)


def completion(url: str, body: Mapping[str, object]) -> str | None:
    """Sends one streamed completion and reads it to its end; why it was lost, or `None`."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=ANSWER_S)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body).encode(), headers)
        response = connection.getresponse()
        if response.status != 200:
            return f"HTTP {response.status}"
        last = b""
        while line := response.readline():
            last = line.strip() or last
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except (OSError, HTTPException):
        return "cut off"
    finally:
        connection.close()
    return None if last == b"data: [DONE]" else "incomplete"
