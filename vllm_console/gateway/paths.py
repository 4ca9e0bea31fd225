"""The paths that are passed on to workers, and what the body and the answer of each look like.

Nothing else reaches a worker: vLLM guards only `/v1/*` with a key, and its development routes
(sleep, pause, weights, caches, remote calls) would be open to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Shape = Literal["openai", "anthropic"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the gateway knows of one path. Field names are those of vLLM 0.32's protocol classes."""

    name: str
    """How /metrics, records and the usage table call it."""
    path: bytes
    shape: Shape = "openai"
    """Whose form its errors have."""
    multipart: bool = False
    """Its body is a form (RFC 7578) instead of JSON."""
    streams: bool = False
    """Its answer may be server-sent events."""
    splices: bool = False
    """Its streams tell their usage only where the request asks for it."""
    metered: bool = True
    """Its tokens count; what only runs a tokenizer costs nothing."""
    limits: tuple[str, ...] = ()
    """Fields that bound what is generated, the one that counts first; empty: nothing is."""
    silent_limit: int | None = None
    """Tokens generated at most where the request names no limit; `None`: as many as fit."""
    samples: bool = False
    """Sampling defaults of the model are filled in."""
    prioritised: bool = False
    """vLLM takes a `priority` in its body."""
    prompt: tuple[str, ...] = ()
    """Fields the prompt begins with, in order: where a prefix is shared, a cache may be."""


_CHAT = Kind(
    "chat",
    b"/v1/chat/completions",
    streams=True,
    splices=True,
    limits=("max_completion_tokens", "max_tokens"),
    samples=True,
    prioritised=True,
    prompt=("messages",),
)
_COMPLETIONS = Kind(
    "completions",
    b"/v1/completions",
    streams=True,
    splices=True,
    limits=("max_tokens",),
    silent_limit=16,
    samples=True,
    prioritised=True,
    prompt=("prompt",),
)
_RESPONSES = Kind(
    "responses",
    b"/v1/responses",
    streams=True,
    limits=("max_output_tokens",),
    samples=True,
    prioritised=True,
    prompt=("instructions", "input"),
)
_MESSAGES = Kind(
    "messages",
    b"/v1/messages",
    shape="anthropic",
    streams=True,
    limits=("max_tokens",),
    samples=True,
    prompt=("system", "messages"),
)
_COUNT_TOKENS = Kind("count_tokens", b"/v1/messages/count_tokens", shape="anthropic", metered=False)


def _pooling(name: str, path: bytes) -> Kind:
    return Kind(name, path, prioritised=True)


def _audio(name: str, path: bytes) -> Kind:
    return Kind(
        name, path, multipart=True, streams=True, splices=True, limits=("max_completion_tokens",)
    )


KINDS: Final = (
    _CHAT,
    _COMPLETIONS,
    _RESPONSES,
    _MESSAGES,
    _COUNT_TOKENS,
    _pooling("embeddings", b"/v1/embeddings"),
    _pooling("rerank", b"/v1/rerank"),
    _pooling("rerank", b"/rerank"),
    _pooling("rerank", b"/v2/rerank"),
    _pooling("score", b"/v1/score"),
    _pooling("score", b"/score"),
    _pooling("pooling", b"/pooling"),
    _pooling("classify", b"/classify"),
    _audio("transcriptions", b"/v1/audio/transcriptions"),
    _audio("translations", b"/v1/audio/translations"),
    Kind("tokenize", b"/tokenize", metered=False),
    Kind("detokenize", b"/detokenize", metered=False),
)
"""Every path that is passed on, by POST alone."""

KIND: Final[Mapping[bytes, Kind]] = {kind.path: kind for kind in KINDS}
"""The kind of a path, compared byte by byte: no decoding, no trailing slash, no query."""
