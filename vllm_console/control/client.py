"""The control API's one client: HTTP/1.1 over the fleet's unix socket, with the standard library.

It blocks; the console runs it in threads. `http.client` is taken because importing anything
larger costs more than the whole budget of `status --json`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from vllm_console import __version__, errors
from vllm_console.answer import Answer, Question
from vllm_console.snapshot import AuditEntry, Event, Snapshot, decoded, from_json

_BY_CODE = {
    kind.exit_code: kind
    for kind in (
        errors.ConsoleError,
        errors.InvalidInput,
        errors.NoDaemon,
        errors.NotFound,
        errors.TimedOut,
    )
}


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a worker's log; `offset` is the byte that follows it."""

    offset: int
    text: str


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost")
        self.path = path
        self.timeout = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Client:
    """Talks to the daemon of one fleet.

    Every method raises `NoDaemon` when nothing answers on the socket, `TimedOut` when the answer
    takes too long, and the daemon's own error (`NotFound`, `InvalidInput`, …) otherwise.
    """

    def __init__(
        self, path: Path, *, timeout: float | None = 10.0, program: str | None = None
    ) -> None:
        """`program` is who asks, for the audit: a verb, or "console"."""
        self.path = path
        self.timeout = timeout
        self._program = f"vllm-console/{__version__}" + (f" {program}" if program else "")
        self._streams: set[_UnixConnection] = set()

    def snapshot_json(self) -> bytes:
        """The newest snapshot as the daemon wrote it: UTF-8 JSON."""
        return self._request("GET", "/v1/snapshot")

    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return from_json(Snapshot, json.loads(self.snapshot_json()))

    def metrics(self) -> str:
        """The fleet as Prometheus text."""
        return self._request("GET", "/metrics").decode()

    def snapshots(self) -> Iterator[Snapshot]:
        """Snapshots as they are made; blocks between them, ends when the client is closed."""
        for line in self._lines("/v1/snapshots", quiet=self.timeout):
            snapshot = decoded(line)
            del line  # of 256 models it is 2 MB, and a second passes until the next
            yield snapshot

    def snapshot_at(self, moment: str) -> Snapshot:
        """The fleet as it was: "-2h", "yesterday 14:00", "2026-11-20 14:00", ISO 8601.

        What is not stored is `None`. Raises `InvalidInput` for what is no time, `NotFound` for one
        before anything was recorded.
        """
        answer = self._get_json(f"/v1/snapshots/at?{urlencode({'time': moment})}")
        return from_json(Snapshot, answer)

    def events(
        self,
        after: int = 0,
        limit: int = 1000,
        *,
        since: str | None = None,
        level: str | None = None,
    ) -> list[Event]:
        """Events with a number above `after`, oldest first; at most the newest `limit`.

        `since` is a time in ISO 8601 UTC, `level` the least that counts (info, warn, crit).
        """
        query = _query(after=after, limit=limit, since=since, level=level)
        return [from_json(Event, e) for e in self._get_json(f"/v1/events?{query}")["events"]]

    def follow_events(self, after: int = 0) -> Iterator[Event]:
        """Events with a number above `after`, then each new one; ends when closed."""
        for line in self._lines(f"/v1/events?{_query(after=after, follow=1)}", quiet=None):
            yield from_json(Event, json.loads(line))  # nothing may happen for days

    def audit(
        self, after: int = 0, limit: int = 1000, *, since: str | None = None
    ) -> list[AuditEntry]:
        """Commands that reached the daemon, oldest first; at most the newest `limit`."""
        query = _query(after=after, limit=limit, since=since)
        return [from_json(AuditEntry, e) for e in self._get_json(f"/v1/audit?{query}")["audit"]]

    def follow_audit(self, after: int = 0) -> Iterator[AuditEntry]:
        """Commands numbered above `after`, then each new one; ends when closed."""
        for line in self._lines(f"/v1/audit?{_query(after=after, follow=1)}", quiet=None):
            yield from_json(AuditEntry, json.loads(line))

    def series(
        self,
        subjects: Sequence[str],
        metrics: Sequence[str],
        seconds: float,
        step: float,
        until: float | None = None,
    ) -> dict[str, dict[str, list[float | None]]]:
        """Graph series by subject and metric: one value a step, oldest first, `None` for a gap.

        They end `until`, in seconds since the epoch, or now.
        """
        asked = {"subject": subjects, "metric": metrics, "seconds": seconds, "step": step}
        query = urlencode(asked if until is None else {**asked, "until": until}, doseq=True)
        series = self._get_json(f"/v1/history?{query}")["series"]
        return {s: dict(by_metric) for s, by_metric in series.items()}

    def ask(self, question: Question) -> Answer:
        """What the stored past says."""
        query = urlencode(
            {
                "metric": question.metrics,
                "quantiles": ",".join(f"{percent:g}" for percent in question.quantiles),
                "since": _utc(question.since),
                "until": _utc(question.until),
                **({"step": f"{question.step:g}"} if question.step else {}),
                **({"by": question.by} if question.by else {}),
                **({"compare": "previous"} if question.compare else {}),
            },
            doseq=True,
        )
        subject = quote(question.subject, safe="")
        return from_json(Answer, self._get_json(f"/v1/history/{subject}?{query}"))

    def log(self, worker: str, offset: int | None = None, lines: int = 200) -> LogChunk:
        """The log of a worker from a byte offset on, or its last lines when there is none."""
        query: dict[str, int] = {"lines": lines}
        if offset is not None:
            query["offset"] = offset
        data = self._get_json(f"/v1/logs/{quote(worker, safe='')}?{urlencode(query)}")
        return LogChunk(data["offset"], data["text"])

    def command(self, verb: str, **args: Any) -> dict[str, Any]:
        """Ask the daemon to do something; returns its answer once it has been accepted."""
        body = json.dumps({"verb": verb, **args}).encode()
        answer = json.loads(self._request("POST", "/v1/commands", body))
        return dict(answer)

    def close(self) -> None:
        """End every open stream."""
        for stream in list(self._streams):
            if stream.sock is not None:
                with suppress(OSError):  # it has ended by itself
                    stream.sock.shutdown(socket.SHUT_RDWR)

    def _get_json(self, target: str) -> dict[str, Any]:
        return dict(json.loads(self._request("GET", target)))

    def _request(self, method: str, target: str, body: bytes | None = None) -> bytes:
        connection = _UnixConnection(self.path, self.timeout)
        try:
            return self._send(connection, method, target, body).read()
        except TimeoutError:
            raise errors.TimedOut(
                f"the daemon did not answer within {self.timeout or 0:g} s on {self.path}"
            ) from None
        except (HTTPException, ConnectionError) as error:
            raise errors.NoDaemon(f"the daemon on {self.path} went away: {error!r}") from None
        finally:
            connection.close()

    def _lines(self, target: str, quiet: float | None) -> Iterator[bytes]:
        """The lines of a stream; more than `quiet` seconds without one mean a dead daemon."""
        connection = _UnixConnection(self.path, self.timeout)
        self._streams.add(connection)
        try:
            response = self._send(connection, "GET", target, None)
            connection.sock.settimeout(quiet)
            while line := response.readline():
                yield line
                del line
        except (HTTPException, OSError, ValueError) as error:
            raise errors.NoDaemon(f"the daemon on {self.path} went away: {error!r}") from None
        finally:
            self._streams.discard(connection)
            connection.close()

    def _send(
        self, connection: _UnixConnection, method: str, target: str, body: bytes | None
    ) -> HTTPResponse:
        try:
            connection.connect()
        except TimeoutError:
            raise
        except OSError as error:
            raise errors.NoDaemon(
                f"no daemon answers on {self.path} ({error.strerror}); "
                "`vllm-console up -d` starts one"
            ) from None
        headers = {"User-Agent": self._program}
        if body:
            headers["Content-Type"] = "application/json"
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        if response.status >= 400:
            raise _error_of(response)
        return response


def _query(**values: int | str | None) -> str:
    return urlencode({name: value for name, value in values.items() if value is not None})


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _error_of(response: HTTPResponse) -> errors.ConsoleError:
    try:
        error = json.loads(response.read())["error"]
        kind = _BY_CODE.get(error["exit_code"], errors.ConsoleError)
        return kind(error["message"])
    except (ValueError, KeyError, TypeError):
        return errors.ConsoleError(f"the daemon answered HTTP {response.status}")
