"""What routing reads of a request's body, and the few bytes that are changed on the way.

    ask = read(kind, content_type, body)
    body = written(kind, body, ask, model, cls)

A body is decoded once, one level deep: values stay slices of it. Changes are made to those bytes,
so that what a client wrote reaches the engine as it was written.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any, Final, final

import msgspec
from msgspec import Raw

from vllm_console.gateway import forms
from vllm_console.gateway.paths import Kind
from vllm_console.gateway.refusals import SHOWN, Refused, refused, shown
from vllm_console.gateway.table import Model

BYTES_PER_TOKEN: Final = 4
"""Of English text and common vocabularies; what a prompt is taken for until its usage is known."""
USUAL_ANSWER: Final = 338
"""Tokens an answer is taken for where no limit is named: the mean of the ShareGPT conversations
(Kwon et al. 2023, "Efficient Memory Management for LLM Serving with PagedAttention", fig. 11)."""
SPOKEN_ANSWER: Final = 448
"""Tokens of a transcription, whose audio says little of it: what Whisper decodes at most from its
30 s window (`max_target_positions`)."""
IMAGE_TOKENS: Final = 1300
"""Tokens of an image inside a body: one megapixel in patches of 28x28 (Qwen2-VL)."""
EMBEDDED: Final = 64 << 10
"""Bytes of an image, in base64, that is told from text; a smaller one is taken for text."""
MOST_TOKENS: Final = 1 << 31
"""What no estimate exceeds, whatever limit a request names."""
LONGEST_NAME: Final = 1024
"""Characters of a model's name."""
AFFINE: Final = 64 << 10
"""Bytes of a conversation that are looked at for where it begins like another."""
AFFINE_TEXT: Final = 1024
"""Bytes of a plain prompt that tell whether it begins like another."""
ENGINE_PRIORITY: Final = (-10, 0, 10)
"""What vLLM is told for the classes high, normal and low; lower goes first."""

_JSON: Final = b"application/json"
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_string = msgspec.json.Decoder(str).decode
_value = msgspec.json.Decoder().decode
_encoded = msgspec.json.encode
_KEY = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*').match
_END = re.compile(rb"[ \t\r\n]*}[ \t\r\n]*").fullmatch

Span = tuple[int, int]


@final
class Ask:
    """What a request asks for, as far as routing has to know."""

    __slots__ = (
        "_fields", "_kind", "_options", "estimate", "max_tokens", "model", "priority",
        "prompt_estimate", "stream", "wants_usage",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        model: str,
        stream: bool,
        fields: Mapping[str, Raw],
    ) -> None:
        self._kind = kind
        self._fields = fields
        self._options: dict[str, Raw] = {}
        self.model = model
        """As the client wrote it: a name, an alias or an adapter; never empty."""
        self.stream = stream
        self.priority: int | None = None
        """The body's own: below 0 is high, 0 normal, above 0 low, as vLLM orders them."""
        self.max_tokens: int | None = None
        """Tokens the answer may have; `None` where the request does not say."""
        self.prompt_estimate = 0
        """Tokens the prompt is taken for until the answer tells its usage."""
        self.estimate = 0
        """Tokens of prompt and answer together; no less than one where tokens count."""
        self.wants_usage = False
        """Whether the client itself said that it wants a stream's usage (in a form: said anything
        of it, since a field may not come twice)."""

    @property
    def strips(self) -> bool:
        """Whether the stream's usage event is for us and kept from the client."""
        return self.stream and self._kind.splices and not self.wants_usage

    @property
    def prefix(self) -> int:
        """CRC-32 of how the prompt begins, 0 for none: equal where a worker's cache may help.

        It covers the instructions and the first message of the user, which all turns of one
        conversation have in common, or the start of a plain prompt; at most `AFFINE` bytes.
        """
        crc = 0
        for name in self._kind.prompt:
            raw = self._fields.get(name)
            if raw is not None:
                crc = zlib.crc32(_beginning(bytes(memoryview(raw)[:AFFINE])), crc)
        return crc

    def bounded(self, model_len: int | None) -> int:
        """The estimate, where the longest sequence of the model, in tokens, is known."""
        return self.estimate if model_len is None else min(self.estimate, model_len)


def class_of(header: bytes | None, priority: int | None) -> int:
    """The class 0 high, 1 normal or 2 low that a request asks for.

    The X-Priority header goes before the body's `priority`. Raises `Refused` for another word.
    """
    if header is not None:
        cls = _CLASSES.get(header.strip().lower())
        if cls is None:
            text = shown(header.decode("utf-8", "replace"))
            raise refused(400, f"x-priority: {text} is not high, normal or low", param="x-priority")
        return cls
    if not priority:
        return 1
    return 0 if priority < 0 else 2


_CLASSES: Final = {b"high": 0, b"normal": 1, b"low": 2}


def read(kind: Kind, content_type: bytes | None, body: bytes) -> Ask:
    """What the body asks for.

    `content_type` is the header's value, `None` where there is none. Raises `Refused` of 400 or
    415 that names what is wrong and where.
    """
    if kind.multipart:
        return _form(kind, content_type, body)
    if content_type != _JSON:
        _json_type(content_type)
    try:
        fields = _fields(body)
        if not body.isascii():
            body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(body, error) from None
    if len(body) != _shortest(fields):
        _spans(body, fields)
    model = _name(fields.get("model"))
    flag = fields.get("stream")
    ask = Ask(kind, model, False if flag is None else _flag("stream", flag), fields)
    if (priority := fields.get("priority")) is not None:
        ask.priority = _whole("priority", priority)
    if ask.stream:
        if not kind.streams:
            ask.stream = False
        elif kind.splices and (options := fields.get("stream_options")) is not None:
            ask._options = told = _object("stream_options", options)
            if (wanted := told.get("include_usage")) is not None:
                ask.wants_usage = _flag("stream_options.include_usage", wanted)
    if kind.name == "responses" and (background := fields.get("background")) is not None:
        _foreground(background)
    if kind.metered:
        _estimate(kind, ask, fields, body)
    return ask


def written(kind: Kind, body: bytes, ask: Ask, model: Model, cls: int) -> bytes:
    """The body as the worker gets it: `body` itself where nothing is to be changed.

    - a stream of a client that did not ask for its usage asks for it, so that it can be counted;
    - sampling defaults of the model are added where the request is silent (absent or null);
    - limits on generated tokens are no greater than the model's cap, and there is one;
    - `priority` tells the class to an engine that schedules by it, and is 0 for any other, which
      refuses all else.

    `cls` is the class the request was given: 0 high, 1 normal, 2 low.
    """
    if kind.multipart:
        return forms.asked_for_usage(body) if ask.strips else body
    changes: dict[str, bytes] = {}
    fields = ask._fields
    if ask.strips:
        changes["stream_options"] = _with_usage(ask._options) if ask._options else _ON
    if kind.samples and model.sampling:
        _sampled(kind, fields, model.sampling, changes)
    if kind.limits and model.limits.max_tokens is not None:
        _capped(kind, fields, model.limits.max_tokens, changes)
    if kind.prioritised:
        if model.engine_priority:
            changes["priority"] = b"%d" % ENGINE_PRIORITY[cls]
        elif ask.priority:
            changes["priority"] = b"0"
    return _changed(body, fields, changes) if changes else body


_ON: Final = b'{"include_usage":true}'


def _changed(body: bytes, fields: Mapping[str, Raw], changes: dict[str, bytes]) -> bytes:
    """The object with these values: in place where there is one, else before its last brace."""
    new = [name for name in changes if name not in fields]
    added = b"".join([b',"%b":%b' % (name.encode(), changes[name]) for name in new])
    end = body.rindex(b"}")
    if len(new) == len(changes):
        return b"%b%b%b" % (body[:end], added, body[end:])
    spans = [
        (span, changes[name]) for name, span in _spans(body, fields).items() if name in changes
    ]
    pieces: list[bytes] = []
    at = 0
    for (start, stop), value in spans:
        pieces += (body[at:start], value)
        at = stop
    return b"".join((*pieces, body[at:end], added, body[end:]))


def _with_usage(options: Mapping[str, Raw]) -> bytes:
    """Stream options that ask for the usage once, at the end.

    Without `include_usage` vLLM passes over `continuous_usage_stats`, and so the client does not
    get what it would not have got.
    """
    wanted = {name: value for name, value in options.items() if name != "continuous_usage_stats"}
    wanted["include_usage"] = Raw(b"true")
    return _encoded(wanted)


def _sampled(
    kind: Kind, fields: Mapping[str, Raw], sampling: Mapping[str, Any], changes: dict[str, bytes]
) -> None:
    for name, value in sampling.items():
        if name in _LIMITS:
            if any(not _silent(fields, one) for one in kind.limits):
                continue
            changes[kind.limits[-1]] = _encoded(value)
        elif name not in _ROUTING and _silent(fields, name):
            changes[name] = _encoded(value)


_LIMITS: Final = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
_ROUTING: Final = frozenset({"model", "stream", "stream_options", "priority"})
"""What is never filled in as a sampling default: it decides where a request goes and what it
returns, not how tokens are drawn."""


def _capped(kind: Kind, fields: Mapping[str, Raw], cap: int, changes: dict[str, bytes]) -> None:
    """Lowers each limit that is above the cap, or that is negative, which some engines take for
    none; where there is no limit at all the cap becomes it."""
    limited = kind.silent_limit is not None and kind.silent_limit <= cap
    for name in kind.limits:
        raw = changes.get(name) or fields.get(name)
        number = None if raw is None else _value(raw)
        if number is None:
            continue
        limited = True
        if type(number) in (int, float) and not 0 <= number <= cap:
            changes[name] = b"%d" % cap
    if not limited:
        changes[kind.limits[-1]] = b"%d" % cap


def _silent(fields: Mapping[str, Raw], name: str) -> bool:
    raw = fields.get(name)
    return raw is None or bytes(raw) == b"null"


def _shortest(fields: Mapping[str, Raw]) -> int:
    """Bytes of an object that has these keys once each, unescaped, and no space between them.

    A body of just that length has no key twice; any other may have.
    """
    return sum(map(len, fields)) + sum(map(len, fields.values())) + 4 * len(fields) + 1


def _spans(body: bytes, fields: Mapping[str, Raw]) -> dict[str, Span]:
    """Where in the body the value of each key stands.

    A decoder keeps the last value of a key that comes twice, at the place of the first; walking
    over the body by the lengths of the values it kept then fails to arrive at the end. Raises
    `Refused` for such a body: which of the two counts is up to who reads it.
    """
    spans: dict[str, Span] = {}
    at = 0
    for name, raw in fields.items():
        key = _KEY(body, at)
        value = bytes(raw)
        if key is None or _value(key[1]) != name or not body.startswith(value, key.end()):
            raise _twice(key, name)
        at = key.end() + len(value)
        spans[name] = (key.end(), at)
    if fields and _END(body, at) is None:
        raise _twice(_KEY(body, at), "")
    return spans


def _twice(key: re.Match[bytes] | None, name: str) -> Refused:
    """The refusal for a second `key`, or for a first one whose value a second replaces."""
    name = _value(key[1]) if key is not None else name
    return refused(400, f"{shown(name)} is given twice in the body", param=name[:SHOWN])


def _json_type(content_type: bytes | None) -> None:
    """Refuses every media type but JSON in UTF-8 (RFC 8259 §8.1)."""
    media, _, rest = (content_type or b"").partition(b";")
    media = media.strip().lower()
    charset = rest.strip().lower().replace(b'"', b"").replace(b" ", b"")
    if media != _JSON:
        named = shown(media.decode("latin-1")) if media else "none"
        raise refused(415, f"content-type: {named}; this path takes application/json")
    if charset.startswith(b"charset=") and charset not in (b"charset=utf-8", b"charset=utf8"):
        raise refused(415, "content-type: JSON is UTF-8 here, whatever its charset says")


def _malformed(body: bytes, error: Exception) -> Refused:
    """One line that says why a body is no JSON object, and where."""
    if isinstance(error, RecursionError):
        return refused(400, "the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return refused(400, f"the body is not UTF-8 (byte {error.start})")
    if not body.strip():
        return refused(400, "the body is empty; a JSON object is expected")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return refused(400, "the body starts with a byte order mark; JSON has none")
    if isinstance(error, msgspec.ValidationError):
        return refused(400, "the body is not a JSON object")
    reason = str(error).removeprefix("JSON is malformed: ")
    if reason == "Input data was truncated":
        reason = "it ends too early, or holds half of a surrogate pair"
    return refused(400, f"the body is not JSON: {reason}")


def _name(raw: Raw | None) -> str:
    """The model's name. Raises `Refused` where there is none."""
    if raw is None or bytes(memoryview(raw)[:1]) == b"n":
        raise _bad_model("missing; GET /v1/models names what is served")
    try:
        return _bounded(_string(raw))
    except msgspec.ValidationError:
        raise _bad_model("a string is expected") from None


def _bounded(model: str) -> str:
    if not model:
        raise _bad_model("empty; GET /v1/models names what is served")
    if len(model) > LONGEST_NAME:
        raise _bad_model(f"longer than {LONGEST_NAME} characters")
    return model


def _bad_model(text: str) -> Refused:
    return refused(400, f"model: {text}", param="model")


def _flag(name: str, raw: Raw) -> bool:
    """True or false; null is false. Raises `Refused` for anything else."""
    text = bytes(raw)
    if text == b"true":
        return True
    if text in (b"false", b"null"):
        return False
    raise refused(400, f"{name}: true or false is expected", param=name)


def _whole(name: str, raw: Raw | bytes) -> int | None:
    """A whole number, also if written with a zero fraction as vLLM takes it; null is `None`."""
    try:
        value = _value(raw)
    except (msgspec.DecodeError, ValueError):  # more digits than a number may have
        value = ""
    if type(value) is int or value is None:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise refused(400, f"{name}: a whole number is expected", param=name)


def _object(name: str, raw: Raw) -> dict[str, Raw]:
    """The fields of an object; null has none. Raises `Refused` for anything else."""
    if bytes(memoryview(raw)[:1]) == b"{":
        return _fields(raw)
    if bytes(raw) == b"null":
        return {}
    raise refused(400, f"{name}: an object is expected", param=name)


def _foreground(background: Raw) -> None:
    """Refuses a response that goes on after its answer: nothing would count it or fetch it."""
    if _flag("background", background):
        raise refused(
            400, "background: not offered here; ask with stream instead", param="background"
        )


def _estimate(kind: Kind, ask: Ask, fields: Mapping[str, Raw], body: bytes) -> None:
    """Fills in the limit on generated tokens and the estimates."""
    size = len(body)
    if size > EMBEDDED and _has_images(body):
        size -= _embedded(body)
    prompt = ask.prompt_estimate = max(1, size // BYTES_PER_TOKEN)
    if not kind.limits:
        ask.estimate = prompt
        return
    for name in reversed(kind.limits):
        if (raw := fields.get(name)) is not None and (limit := _whole(name, raw)) is not None:
            ask.max_tokens = limit
    answer = ask.max_tokens
    if answer is None:
        answer = USUAL_ANSWER if kind.silent_limit is None else kind.silent_limit
    if (several := fields.get("n")) is not None:
        answer *= max(1, _whole("n", several) or 1)
    ask.estimate = min(prompt + max(0, answer), MOST_TOKENS)


def _has_images(body: bytes) -> bool:
    """Whether some 128 bytes, looked at often enough to hit any image, have no space or escape."""
    step = EMBEDDED // 2
    return any(_BREAK(body, at, at + 128) is None for at in range(step, len(body), step))


_BREAK: Final = re.compile(rb"[ \\]").search


def _embedded(body: bytes) -> int:
    """Bytes of images inside the body, less what they cost as tokens."""
    spared = at = 0
    while (at := body.find(b";base64,", at)) >= 0:
        end = body.find(b'"', at)
        if end < 0:
            break
        spared += max(0, end - at - IMAGE_TOKENS * BYTES_PER_TOKEN)
        at = end
    return spared


def _beginning(text: bytes) -> bytes:
    """The part of a prompt that other requests may share.

    In a list of messages that is all up to the user's first one, told by the keys `"role"`: a quote
    inside of a string is escaped, so that a text cannot hold one.
    """
    first = text.find(b'"role"') if text.startswith(b"[") else -1
    if first < 0:
        return text[:AFFINE_TEXT]
    led = text[first + 6 : first + 24].lstrip(b" \t\r\n:").startswith((b'"system"', b'"developer"'))
    at = text.find(b'"role"', first + 6)
    if at >= 0 and led:
        at = text.find(b'"role"', at + 6)
    return (text if at < 0 else text[:at]).rstrip(b" \t\r\n,]{")


def _form(kind: Kind, content_type: bytes | None, body: bytes) -> Ask:
    """What a form asks for; its files are passed over."""
    fields = forms.fields(content_type, body, _FORM_FIELDS)
    if (model := fields.get("model")) is None:
        raise _bad_model("missing; GET /v1/models names what is served")
    ask = Ask(kind, _bounded(model), _switched("stream", fields), {})
    ask.wants_usage = _switched("stream_include_usage", fields) or "stream_include_usage" in fields
    ask.prompt_estimate = 1
    ask.estimate = 1 + SPOKEN_ANSWER
    return ask


_FORM_FIELDS: Final = frozenset({"model", "stream", "stream_include_usage"})


def _switched(name: str, fields: Mapping[str, str]) -> bool:
    """A flag of a form, in the words that vLLM's pydantic takes for one."""
    text = fields.get(name, "").strip().lower()
    if text in ("true", "1", "yes", "y", "on", "t"):
        return True
    if text in ("", "false", "0", "no", "n", "off", "f"):
        return False
    raise refused(400, f"{name}: true or false is expected", param=name)
