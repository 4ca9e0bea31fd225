"""What an answer cost, read from its bytes while they pass.

    tally = Tally(kind, stream=True, strip=ask.strips, prompt=ask.prompt_estimate)
    client.write(tally.feed(piece))     # for every piece
    client.write(tally.end())           # the answer is complete
    client.write(tally.cut() + event)   # or it broke off

Usage is only taken from where its API has it, by parsing: a model may write `"usage": {…}` into its
text, into the arguments of a tool or into the echo of a request, and none of these counts.
"""

from __future__ import annotations

import re
from typing import Final, final

import msgspec

from vllm_console.gateway.body import BYTES_PER_TOKEN
from vllm_console.gateway.paths import Kind

HELD: Final = 64 << 10
"""Bytes of an unfinished event that are kept back; a longer one passes as it comes."""
KEPT: Final = 256 << 10
"""Bytes of an answer in one piece that are kept to be parsed; of a longer one only its end is."""
TAIL: Final = 16 << 10
"""Bytes kept of the end of what is longer."""

_USAGE: Final = b'"usage"'
_ENDS: Final = (b"\n\n", b"\n\r\n")
_SEPARATOR: Final = re.compile(rb"\n\r?\n")
_DONE_SIZE: Final = len(b"data: [DONE]\r\n\r\n")
_FINISH_REASON: Final = b'"finish_reason"'
_FINISH: Final = re.compile(rb'"finish_reason": ?"([^"\\]*)"').match
_ERROR: Final = re.compile(rb'(?:^|\n)(?:event: ?error\r?\n|data: ?{"error")')
_WORD: Final = re.compile(r"[a-z_]{1,32}")
_CANDIDATES: Final = 8
_FINISHES: Final = {
    "completed": "stop",
    "end_turn": "stop",
    "failed": "error",
    "incomplete": "length",
    "max_tokens": "length",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
"""Anthropic's stop reasons and a response's status in the words of chat completions."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Every API's words: chat, completions, pooling; responses; messages."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _Answer(msgspec.Struct):
    """An answer in one piece, or an event that holds as much of one."""

    usage: _Usage | None = None
    choices: list[_Choice] | None = None
    stop_reason: str | None = None
    status: str | None = None


class _MessageEvent(msgspec.Struct):
    """`message_start` has the prompt's tokens in its message, `message_delta` those of all."""

    usage: _Usage | None = None
    message: _Answer | None = None
    delta: _Delta | None = None


class _ResponseEvent(msgspec.Struct):
    """`response.completed`, `.incomplete` and `.failed` have the whole response."""

    response: _Answer | None = None
    type: str = ""


_answer: Final = msgspec.json.Decoder(_Answer).decode
_message_event: Final = msgspec.json.Decoder(_MessageEvent).decode
_response_event: Final = msgspec.json.Decoder(_ResponseEvent).decode


@final
class Tally:
    """The tokens of one answer and how it ended; `feed` takes it piece by piece."""

    __slots__ = (
        "_bytes", "_generated", "_held", "_kept", "_kind", "_last", "_long", "_pieces", "_prompt",
        "_prompt_estimate", "_stream", "_strip", "cached", "exact", "finish",
    )  # fmt: skip

    def __init__(self, kind: Kind, stream: bool, strip: bool, prompt: int = 0) -> None:
        """`stream`: the answer is server-sent events; `strip`: their usage is not for the client;
        `prompt`: tokens the prompt is taken for until the answer tells."""
        self._kind = kind
        self._stream = stream
        self._strip = strip
        self._prompt_estimate = prompt if kind.metered else 0
        self._prompt: int | None = None
        self._generated: int | None = None
        self._bytes = 0
        self._held = b""
        self._last = b""
        self._long = False
        self._pieces: list[bytes] = []
        self._kept = 0
        self.cached = 0
        """Tokens of the prompt that the engine had in its cache; 0 where it does not tell."""
        self.finish: str | None = None
        """Why the last choice ended: stop, length, tool_calls, content_filter, error …; known at
        the end."""
        self.exact = not kind.metered
        """Whether the tokens are those the engine counted for the whole answer."""

    @property
    def prompt(self) -> int:
        """Tokens of the prompt, cached ones included."""
        return self._prompt_estimate if self._prompt is None else self._prompt

    @property
    def generated(self) -> int:
        """Tokens of the answer; of one that did not tell, as many as it had events."""
        if self._generated is not None:
            return self._generated
        if not self._kind.limits:
            return 0
        if not self._stream:
            return self._bytes // BYTES_PER_TOKEN
        found = _SEPARATOR.search(self._last)
        return self._bytes // found.end() if found is not None else 0

    def feed(self, piece: bytes) -> bytes:
        """What of the answer goes on to the client now: in a stream, whole events."""
        if not self._stream:
            return self._whole(piece)
        size = len(piece)
        self._bytes += size
        if not self._held and piece.rfind(_USAGE) < 0 and piece.endswith(_ENDS):
            if size > _DONE_SIZE:
                self._last = piece
            return piece
        return self._through(piece) if self._long else self._events(piece)

    def end(self) -> bytes:
        """What was held back of a complete answer; the tally is final."""
        rest = b""
        if self._stream:
            held, self._held = self._held, b""
            if self._long:
                self._long = False
                self._end_of(held)
            elif held:
                rest = self._read(held)
            self._end_word()
        elif self._pieces:
            text = b"".join(self._pieces)
            self._pieces.clear()
            if len(text) == self._bytes:
                self._take(text)
            else:
                self._end_of(text)
        return rest

    def cut(self) -> bytes:
        """What goes out before an in-band error where the answer broke off.

        The beginning of an event that was held back is dropped: the client never sees half of one,
        unless it was longer than `HELD`, and then it is closed.
        """
        self._held = b""
        long, self._long = self._long, False
        return b"\n\n" if long else b""

    def _whole(self, piece: bytes) -> bytes:
        """A piece of an answer that is one JSON document."""
        self._bytes += len(piece)
        if self._kind.metered:
            self._pieces.append(piece)
            self._kept += len(piece)
            if self._kept > KEPT:
                text = b"".join(self._pieces)[-TAIL:]
                self._pieces, self._kept = [text], len(text)
        return piece

    def _events(self, piece: bytes) -> bytes:
        """Events that tell usage, or that do not end with the piece."""
        text = self._held + piece if self._held else piece
        end = _begins(text, 0, len(text))
        events, rest = text[:end], text[end:]
        if len(rest) <= HELD:
            self._held = rest
            return self._read(events)
        self._held, self._long = rest[-TAIL:], True
        return self._read(events) + rest

    def _through(self, piece: bytes) -> bytes:
        """The rest of an event that is too long to hold."""
        before = len(self._held)
        text = self._held + piece
        found = _SEPARATOR.search(text, max(0, before - 2))
        if found is None:
            self._held = text[-TAIL:]
            return piece
        self._held, self._long = b"", False
        self._end_of(text[: found.end()])
        over = found.end() - before
        return piece[:over] + self._events(piece[over:])

    def _read(self, events: bytes) -> bytes:
        """The events without those that are for us alone; what they tell is taken."""
        kept = []
        at = end = 0
        while (usage := events.find(_USAGE, end)) >= 0:
            start = _begins(events, end, usage)
            found = _SEPARATOR.search(events, usage)
            end = len(events) if found is None else found.end()
            if self._take(events[events.find(b"{", start) : events.rfind(b"}", start, end) + 1]):
                self._keep_last(events[at:start])
                kept.append(events[at : start if self._strip else end])
                at = end
        rest = events[at:] if at else events
        self._keep_last(rest)
        return b"".join((*kept, rest)) if kept else rest

    def _keep_last(self, events: bytes) -> None:
        """Remembers events that may say how the stream ended."""
        if len(events) > _DONE_SIZE:
            self._last = events

    def _take(self, text: bytes) -> bool:
        """Takes what a JSON text tells; true if it is an event of nothing but usage."""
        try:
            if not self._stream:
                answer = _answer(text)
            elif self._kind.name == "messages":
                return self._take_message(_message_event(text))
            elif self._kind.name == "responses":
                return self._take_response(_response_event(text))
            else:
                answer = _answer(text)
        except (msgspec.DecodeError, RecursionError):
            return False
        choices = answer.choices
        for choice in choices or ():
            self._ended(choice.finish_reason)
        self._ended(answer.stop_reason or answer.status)
        if answer.usage is None or not self._count(answer.usage):
            return False
        only_usage = self._stream and choices is not None and not choices
        self.exact = only_usage or not self._stream or self.finish is not None
        return only_usage

    def _take_message(self, event: _MessageEvent) -> bool:
        if event.message is not None and event.message.usage is not None:
            self._count(event.message.usage)
        if event.delta is not None:
            self._ended(event.delta.stop_reason)
        if event.usage is not None and self._count(event.usage):
            self.exact = True
        return False

    def _take_response(self, event: _ResponseEvent) -> bool:
        usage = event.response.usage if event.response is not None else None
        if usage is not None and self._count(usage):
            self._ended(event.type.removeprefix("response."))
            self.exact = True
        return False

    def _end_of(self, text: bytes) -> None:
        """Takes what the end of a long JSON text tells, whose beginning is lost.

        A key at the depth that counts, with the opening braces of that depth before it, begins a
        complete document; at any other depth its closing braces are too many or too few, and inside
        of a string its quotes would be escaped.
        """
        lead = b'{"response":{' if self._stream and self._kind.name == "responses" else b"{"
        at = len(text)
        for _ in range(_CANDIDATES):
            at = text.rfind(_USAGE, 0, at)
            if at < 0:
                break
            before = self.exact
            self.exact = False
            self._take(lead + text[at : text.rfind(b"}") + 1])
            if self.exact:
                self._last = text[:at]
                self._end_word()
                break
            self.exact = before

    def _count(self, usage: _Usage) -> bool:
        """Takes the tokens of a usage; false if it has none, as that of audio in seconds."""
        if usage.input_tokens is not None or usage.output_tokens is not None:
            prompt, generated = usage.input_tokens, usage.output_tokens
            details = usage.input_tokens_details
            read = usage.cache_read_input_tokens or 0
            if prompt is not None:
                prompt += read + (usage.cache_creation_input_tokens or 0)
        else:
            prompt, generated = usage.prompt_tokens, usage.completion_tokens
            details, read = usage.prompt_tokens_details, 0
            if prompt is None and usage.total_tokens is not None:
                prompt = usage.total_tokens - (generated or 0)
        if prompt is None and generated is None:
            return False
        if prompt is not None:
            self._prompt = max(0, prompt)
        self._generated = max(0, generated or 0)
        self.cached = max(0, details.cached_tokens or 0 if details is not None else read)
        return True

    def _ended(self, word: str | None) -> None:
        if word is not None:
            word = _FINISHES.get(word, word)
            self.finish = word if _WORD.fullmatch(word) else "other"

    def _end_word(self) -> None:
        """Looks for how a stream ended where no event of usage said it."""
        if self.finish is not None:
            return
        last = self._last
        at = len(last)
        while (at := last.rfind(_FINISH_REASON, 0, at)) >= 0:
            if (found := _FINISH(last, at)) is not None:
                self._ended(found[1].decode("utf-8", "replace"))
                return
        if _ERROR.search(last):
            self.finish = "error"


def _begins(events: bytes, since: int, at: int) -> int:
    """Where the event begins that a place is in, where one begins at `since`."""
    plain = events.rfind(b"\n\n", since, at)
    crlf = events.rfind(b"\n\r\n", since, at) if b"\r" in events else -1
    return crlf + 3 if crlf > plain else plain + 2 if plain >= 0 else since
