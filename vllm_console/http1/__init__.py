"""A lean pooled HTTP/1.1 client: the one way this program talks HTTP to workers.

    pool = Pool()
    answer = await pool.request("GET", "http://127.0.0.1:8000/metrics", timeout=2.0)
    async with pool.stream("POST", url, body=body) as response:
        async for piece in response.chunks():
            ...
    await pool.close()

Who would rather be called than await takes an answer from an `Origin` as it arrives.
Plain TCP only, no redirects, no content decoding. Every failure is an `HttpError` of one line:

    HttpError
    ├── BadRequest        what was asked cannot be put on the wire (URL, header, closed pool)
    ├── ConnectFailed     nothing was sent: refused, unreachable, unknown host
    ├── RequestTimedOut   not connected, or not answered in full, within the time allowed
    ├── Disconnected      the peer hung up before the answer was complete
    └── BadResponse       what came back is not HTTP/1.x, or is larger than allowed
"""

from __future__ import annotations

from vllm_console.http1.connection import HIGH_WATER
from vllm_console.http1.failures import (
    BadRequest,
    BadResponse,
    ConnectFailed,
    Disconnected,
    HttpError,
    RequestTimedOut,
)
from vllm_console.http1.pool import Pool, Response, StreamedResponse
from vllm_console.http1.push import MAX_OVERHEAD, SAFE_IDLE_S, Headers, Line, Origin, Taker

__all__ = [
    "HIGH_WATER",
    "MAX_OVERHEAD",
    "SAFE_IDLE_S",
    "BadRequest",
    "BadResponse",
    "ConnectFailed",
    "Disconnected",
    "Headers",
    "HttpError",
    "Line",
    "Origin",
    "Pool",
    "RequestTimedOut",
    "Response",
    "StreamedResponse",
    "Taker",
]
