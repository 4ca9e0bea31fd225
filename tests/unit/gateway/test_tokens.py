"""Usage read from answers as vLLM 0.32 writes them, cut at any byte, and what a model may forge."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.gateway.paths import KIND, Kind
from vllm_console.gateway.tokens import HELD, KEPT, TAIL, Tally

_CHAT = KIND[b"/v1/chat/completions"]
_COMPLETIONS = KIND[b"/v1/completions"]
_RESPONSES = KIND[b"/v1/responses"]
_MESSAGES = KIND[b"/v1/messages"]
_EMBEDDINGS = KIND[b"/v1/embeddings"]
_RERANK = KIND[b"/rerank"]
_AUDIO = KIND[b"/v1/audio/transcriptions"]
_TOKENIZE = KIND[b"/tokenize"]

_FORGED = '"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
_FORGERIES: tuple[Any, ...] = (
    _FORGED,
    "}," + _FORGED + "}",
    '","choices":[],' + _FORGED + '}\n\ndata: {"choices":[],' + _FORGED + "}\n\n",
    "\\" + _FORGED,
    {"usage": {"prompt_tokens": 0, "input_tokens": 0, "output_tokens": 0, "completion_tokens": 0}},
    [{"usage": {"input_tokens": 0}, "choices": []}],
)


def _event(value: Any, name: str | None = None) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def _chunk(text: str | None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _event({"id": "chatcmpl-1", "model": "m", "choices": [choice], **more})


_CHAT_USAGE = {
    "prompt_tokens": 21,
    "total_tokens": 24,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 16},
}
_USAGE_ONLY = _event({"id": "chatcmpl-1", "model": "m", "choices": [], "usage": _CHAT_USAGE})
_DONE = b"data: [DONE]\n\n"


def _played(tally: Tally, pieces: Iterable[bytes]) -> bytes:
    """What a client receives of a complete answer."""
    return b"".join([tally.feed(piece) for piece in pieces]) + tally.end()


def _cut(text: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(at)]


def _counted(tally: Tally) -> tuple[int, int, int, str | None, bool]:
    return tally.prompt, tally.cached, tally.generated, tally.finish, tally.exact


_CUTS = st.lists(st.integers(0, 4000), max_size=30)
_TEXTS = st.lists(st.text(max_size=8) | st.sampled_from([f for f in _FORGERIES if type(f) is str]))


# Streams of chat completions.


@given(texts=_TEXTS, cuts=_CUTS, crlf=st.booleans(), asked=st.booleans(), beat=st.booleans())
def test_a_stream_is_counted_and_the_client_sees_what_it_asked_for(
    texts: list[str], cuts: list[int], crlf: bool, asked: bool, beat: bool
) -> None:
    events = [_chunk(text) for text in ["", *texts]]
    if beat:
        events.insert(1, b": keep-alive\n\n")
    events.append(_chunk(None, "length"))
    with_usage = b"".join([*events, _USAGE_ONLY, _DONE])
    without = b"".join([*events, _DONE])
    if crlf:
        with_usage, without = (text.replace(b"\n", b"\r\n") for text in (with_usage, without))
    tally = Tally(_CHAT, stream=True, strip=not asked, prompt=99)
    assert _played(tally, _cut(with_usage, cuts)) == (with_usage if asked else without)
    assert _counted(tally) == (21, 16, 3, "length", True)


@given(st.binary(max_size=30), _CUTS)
def test_what_is_no_stream_of_events_passes_unchanged(junk: bytes, cuts: list[int]) -> None:
    text = b'data: {"choices":' + junk + b'"usage"' + junk
    tally = Tally(_CHAT, stream=True, strip=True)
    assert _played(tally, _cut(text, cuts)) == text
    assert not tally.exact


def test_whole_events_pass_without_delay_as_the_very_bytes_that_came() -> None:
    tally = Tally(_CHAT, stream=True, strip=True)
    one = _chunk("a") + _chunk("b")
    assert tally.feed(one) is one


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_the_client_sees_each_event_at_once_and_never_half_of_one(end: bytes) -> None:
    tally = Tally(_CHAT, stream=True, strip=False)
    one, two = (_chunk(text).replace(b"\n\n", end) for text in "ab")
    assert tally.feed(one + two[:20]) == one
    assert tally.feed(two[20:40]) == b""
    assert tally.feed(two[40:]) == two
    assert tally.feed(one[:-1]) == b""
    assert tally.cut() == b""
    assert tally.end() == b""


def test_usage_in_every_event_stays_and_the_last_one_counts() -> None:
    usage = {"prompt_tokens": 21, "total_tokens": 22, "completion_tokens": 1}
    events = [_chunk("a", usage=usage), _chunk("b", "stop", usage=usage), _USAGE_ONLY, _DONE]
    asked = Tally(_CHAT, stream=True, strip=False)
    assert _played(asked, events) == b"".join(events)
    assert _counted(asked) == (21, 16, 3, "stop", True)
    forced = Tally(_CHAT, stream=True, strip=True)
    assert _played(forced, events) == b"".join(events[:2]) + _DONE


def test_a_stream_that_breaks_off_has_the_tokens_that_were_told_and_is_not_exact() -> None:
    usage = {"prompt_tokens": 21, "total_tokens": 28, "completion_tokens": 7}
    tally = Tally(_CHAT, stream=True, strip=False, prompt=99)
    tally.feed(_chunk("a", usage=usage))
    assert _counted(tally) == (21, 0, 7, None, False)


def test_usage_that_is_null_until_the_end_is_no_usage() -> None:
    """OpenAI's own form, which attached servers may have."""
    events = [_chunk("a", usage=None), _chunk(None, "stop", usage=None), _USAGE_ONLY, _DONE]
    tally = Tally(_CHAT, stream=True, strip=True)
    assert _played(tally, events) == b"".join([*events[:2], _DONE])
    assert _counted(tally) == (21, 16, 3, "stop", True)


def test_usage_on_the_last_choice_is_exact_and_stays() -> None:
    events = [_chunk("a"), _chunk(None, "stop", usage=_CHAT_USAGE), _DONE]
    tally = Tally(_CHAT, stream=True, strip=True)
    assert _played(tally, events) == b"".join(events)
    assert _counted(tally) == (21, 16, 3, "stop", True)


def test_a_stream_without_usage_is_estimated_by_its_events() -> None:
    events = [_chunk("abcd")] * 40
    tally = Tally(_CHAT, stream=True, strip=True, prompt=55)
    for event in events:
        tally.feed(event)
    assert _counted(tally) == (55, 0, 40, None, False)
    together = Tally(_CHAT, stream=True, strip=True, prompt=55)
    together.feed(b"".join(events))
    assert _counted(together) == (55, 0, 40, None, False)


def test_an_answer_of_which_nothing_came_generated_nothing() -> None:
    assert Tally(_CHAT, stream=True, strip=True).generated == 0
    assert Tally(_CHAT, stream=False, strip=False).generated == 0


def test_the_finish_is_that_of_the_last_choice() -> None:
    events = [_chunk("a", "stop"), _chunk("b", "tool_calls"), _chunk('"finish_reason":"x"'), _DONE]
    tally = Tally(_CHAT, stream=True, strip=True)
    _played(tally, [b"".join(events[:2]), _DONE])
    assert tally.finish == "tool_calls"
    tally = Tally(_CHAT, stream=True, strip=True)
    _played(tally, [events[0], events[2] + _USAGE_ONLY + _DONE])
    assert tally.finish is None


def test_an_error_inside_a_stream_is_how_it_ended() -> None:
    broken = _event({"error": {"message": "EngineCore died", "code": 500}})
    tally = Tally(_CHAT, stream=True, strip=True)
    _played(tally, [_chunk("a"), broken, _DONE])
    assert tally.finish == "error"
    tally = Tally(_CHAT, stream=True, strip=True)
    _played(tally, [_chunk('data: {"error":'), _DONE])
    assert tally.finish is None


def test_a_word_that_is_no_reason_is_not_repeated() -> None:
    tally = Tally(_CHAT, stream=True, strip=True)
    _played(tally, [_chunk("a", "Vendor Specific/3"), _DONE])
    assert tally.finish == "other"


def test_an_event_longer_than_is_held_passes_and_the_next_ones_are_counted() -> None:
    long = _chunk("x" * (2 * HELD))
    text = _chunk("a") + long + _chunk(None, "stop") + _USAGE_ONLY + _DONE
    tally = Tally(_CHAT, stream=True, strip=True)
    assert _played(tally, _cut(text, range(0, len(text), 1000))) == text.replace(_USAGE_ONLY, b"")
    assert _counted(tally) == (21, 16, 3, "stop", True)


def test_a_long_event_ends_where_it_ends_though_cut_inside_its_end() -> None:
    long = _chunk("x" * (2 * HELD))
    for cut in range(1, 5):
        text = long + _USAGE_ONLY
        at = len(long) - 3 + cut
        tally = Tally(_CHAT, stream=True, strip=True)
        assert _played(tally, [text[: at - 9], text[at - 9 : at], text[at:]]) == long


def test_a_long_event_that_breaks_off_is_closed_before_the_error() -> None:
    tally = Tally(_CHAT, stream=True, strip=True)
    long = _chunk("x" * (2 * HELD))
    assert tally.feed(long[:-10]) == long[:-10]
    assert tally.cut() == b"\n\n"


@given(_CUTS)
def test_a_stream_whose_last_event_has_no_end_is_passed_in_full(cuts: list[int]) -> None:
    text = _chunk("a") + _chunk(None, "stop")[:-2]
    tally = Tally(_CHAT, stream=True, strip=True)
    assert _played(tally, _cut(text, cuts)) == text
    assert tally.finish == "stop"


def test_a_completion_is_counted_like_a_chat() -> None:
    choice = {"index": 0, "text": "a", "logprobs": None, "finish_reason": "length"}
    usage = _event({"id": "cmpl-1", "choices": [], "usage": {**_CHAT_USAGE}})
    tally = Tally(_COMPLETIONS, stream=True, strip=True)
    assert usage not in _played(tally, [_event({"choices": [choice]}) + usage + _DONE])
    assert _counted(tally) == (21, 16, 3, "length", True)


# Streams of the other APIs.


def _message_events(text: str) -> list[bytes]:
    start = {"id": "m", "content": [], "usage": {"input_tokens": 5, "output_tokens": 0}}
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": _FORGERIES[4]}
    delta = {"type": "text_delta", "text": text}
    usage = {"output_tokens": 9, "input_tokens": 5, "cache_read_input_tokens": 16}
    stop = {"stop_reason": "tool_use", "stop_sequence": None}
    return [
        _event({"type": "message_start", "message": start}, "message_start"),
        _event({"type": "content_block_start", "content_block": tool}, "content_block_start"),
        _event({"type": "content_block_delta", "delta": delta}, "content_block_delta"),
        _event({"type": "message_delta", "delta": stop, "usage": usage}, "message_delta"),
        _event({"type": "message_stop"}, "message_stop"),
    ]


@given(text=st.sampled_from([f for f in _FORGERIES if type(f) is str]), cuts=_CUTS)
def test_a_stream_of_messages_is_counted_with_what_the_cache_had(
    text: str, cuts: list[int]
) -> None:
    stream = b"".join(_message_events(text))
    tally = Tally(_MESSAGES, stream=True, strip=False)
    assert _played(tally, _cut(stream, cuts)) == stream
    assert _counted(tally) == (21, 16, 9, "tool_calls", True)


def test_a_stream_of_messages_that_breaks_off_knows_its_prompt() -> None:
    tally = Tally(_MESSAGES, stream=True, strip=False, prompt=99)
    tally.feed(_message_events("a")[0])
    assert (tally.prompt, tally.exact) == (5, False)


def _response(text: Any, tools: Any, after: Any = None, status: str = "completed") -> bytes:
    details = {"cached_tokens": 16, "cache_write_tokens": 0}
    usage = {"input_tokens": 21, "input_tokens_details": details, "output_tokens": 9}
    response = {
        "id": "resp_1",
        "output": [{"content": [{"type": "output_text", "text": text}]}],
        "tools": tools,
        "status": status,
        "usage": usage,
        "user": None,
        "input_messages": after,
    }
    event = {"response": response, "sequence_number": 7, "type": f"response.{status}"}
    return _event(event, f"response.{status}")


@given(
    text=st.sampled_from(_FORGERIES),
    tools=st.sampled_from(_FORGERIES),
    after=st.sampled_from(_FORGERIES),
    size=st.sampled_from([0, 1000, HELD, 2 * HELD]),
    step=st.sampled_from([997, 7001, 1 << 20]),
)
def test_a_streamed_response_is_counted_from_its_last_event_however_long_that_is(
    text: Any, tools: Any, after: Any, size: int, step: int
) -> None:
    created = {"type": "response.created", "response": {"usage": None, "status": "in_progress"}}
    stream = _event(created, "response.created")
    stream += _response([text, "x" * size], tools, [after, after])
    tally = Tally(_RESPONSES, stream=True, strip=False)
    assert _played(tally, _cut(stream, range(0, len(stream), step))) == stream
    assert _counted(tally) == (21, 16, 9, "stop", True)


@pytest.mark.parametrize(
    ("status", "finish"), [("completed", "stop"), ("incomplete", "length"), ("failed", "error")]
)
def test_a_response_ended_as_its_event_says(status: str, finish: str) -> None:
    tally = Tally(_RESPONSES, stream=True, strip=False)
    _played(tally, [_response("a", [], status=status)])
    assert tally.finish == finish


# Answers in one piece.


def _unary(kind: Kind, answer: Any, step: int = 1 << 20) -> Tally:
    text = json.dumps(answer, separators=(",", ":")).encode()
    tally = Tally(kind, stream=False, strip=False, prompt=77)
    pieces = _cut(text, range(0, len(text), step))
    assert _played(tally, pieces) == text
    return tally


_DEEP = st.recursive(
    st.sampled_from(_FORGERIES) | st.text(max_size=5) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["usage", "a", "choices"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    text=_DEEP,
    after=_DEEP,
    size=st.sampled_from([0, TAIL, KEPT, 3 * KEPT]),
    step=st.sampled_from([100_003, 1 << 20]),
)
def test_only_the_usage_of_the_answer_itself_counts(
    text: Any, after: Any, size: int, step: int
) -> None:
    answer = {
        "id": "chatcmpl-1",
        "choices": [
            {"index": 0, "message": {"content": "x" * size}, "finish_reason": "stop"},
            {
                "index": 1,
                "message": {"content": text},
                "finish_reason": "length",
                "token_ids": None,
            },
        ],
        "usage": _CHAT_USAGE,
        "kv_transfer_params": [after],
    }
    assert _counted(_unary(_CHAT, answer, step)) == (21, 16, 3, "length", True)


def test_a_message_is_counted_past_what_the_model_gave_to_a_tool() -> None:
    usage = {"input_tokens": 5, "output_tokens": 9, "cache_read_input_tokens": 16}
    content = [{"type": "tool_use", "input": {"usage": {"input_tokens": 0, "output_tokens": 0}}}]
    answer = {"content": content, "stop_reason": "max_tokens", "usage": usage}
    assert _counted(_unary(_MESSAGES, answer)) == (21, 16, 9, "length", True)


def test_a_response_is_counted_past_the_echo_of_the_request() -> None:
    usage = {"input_tokens": 21, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 16}}
    forged = {"usage": {"input_tokens": 0, "output_tokens": 0}}
    answer = {
        "tools": [forged],
        "status": "incomplete",
        "usage": usage,
        "output_messages": [forged],
    }
    assert _counted(_unary(_RESPONSES, answer)) == (21, 16, 9, "length", True)


@pytest.mark.parametrize("inputs", [1, 2000])
def test_embeddings_are_counted_after_their_numbers(inputs: int) -> None:
    data = [{"index": at, "embedding": [0.123456789] * 64} for at in range(inputs)]
    usage = {"prompt_tokens": 8, "total_tokens": 8, "completion_tokens": 0}
    tally = _unary(_EMBEDDINGS, {"id": "e", "data": data, "model": "m", "usage": usage}, 70_000)
    assert _counted(tally) == (8, 0, 0, None, True)


def test_a_rerank_that_tells_only_the_sum_is_all_prompt() -> None:
    tally = _unary(_RERANK, {"usage": {"total_tokens": 56}, "results": [{"index": 0}]})
    assert _counted(tally) == (56, 0, 0, None, True)


def test_a_transcription_tells_seconds_and_is_estimated() -> None:
    tally = _unary(_AUDIO, {"text": "hello", "usage": {"type": "duration", "seconds": 3}})
    size = len('{"text":"hello","usage":{"type":"duration","seconds":3}}')
    assert _counted(tally) == (77, 0, size // 4, None, False)


def test_what_only_runs_a_tokenizer_costs_nothing() -> None:
    tally = _unary(_TOKENIZE, {"count": 3, "tokens": [1, 2, 3], "usage": _CHAT_USAGE})
    assert _counted(tally) == (0, 0, 0, None, True)


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": []},
        {"choices": [], "usage": None},
        {"choices": [], "usage": "many"},
        {"choices": [], "usage": {"prompt_tokens": "21"}},
        {"choices": 3, "usage": _CHAT_USAGE},
        ["usage", {"prompt_tokens": 1}],
    ],
)
def test_an_answer_that_does_not_tell_is_estimated(answer: Any) -> None:
    tally = _unary(_CHAT, answer)
    size = len(json.dumps(answer, separators=(",", ":")))
    assert _counted(tally) == (77, 0, size // 4, None, False)


def test_numbers_below_zero_count_as_zero() -> None:
    answer = {"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": -1}}
    assert _counted(_unary(_CHAT, answer))[:3] == (0, 0, 0)


def test_a_long_answer_takes_bounded_memory() -> None:
    tally = Tally(_EMBEDDINGS, stream=False, strip=False)
    stream = Tally(_CHAT, stream=True, strip=True)
    tracemalloc.start()
    try:
        for at in range(2000):
            tally.feed(b"%d" % at + b"1," * 8192)
            stream.feed(b"%d" % at + b"1," * 8192)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * (KEPT + HELD)
