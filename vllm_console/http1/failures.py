"""Why an exchange with a server gave no complete response."""

from __future__ import annotations


class HttpError(Exception):
    """An exchange that gave no complete response. `str(error)` is one line."""


class BadRequest(HttpError):
    """The request cannot be put on the wire."""


class ConnectFailed(HttpError):
    """No connection came about; nothing was sent."""


class RequestTimedOut(HttpError):
    """The exchange was not complete within the time allowed."""


class Disconnected(HttpError):
    """The peer closed the connection before the response was complete."""


class BadResponse(HttpError):
    """The peer's bytes are not an HTTP/1.x response, or are more than allowed."""


def reason(error: Exception) -> str:
    """Why, in one lower-case line: the system's own words without number or address."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = one_line(text) or type(error).__name__
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in text:
        return "connection refused"
    return text[:1].lower() + text[1:]


def one_line(text: str) -> str:
    return " ".join(text.split())[:200]
