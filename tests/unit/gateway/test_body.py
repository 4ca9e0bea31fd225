"""Reading and changing bodies, against Python's own JSON and dictionaries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_console.gateway import body as bodies
from vllm_console.gateway.body import Ask, class_of, read, written
from vllm_console.gateway.paths import KIND, KINDS, Kind
from vllm_console.gateway.refusals import Refused
from vllm_console.gateway.table import Limits, Model

_CHAT = KIND[b"/v1/chat/completions"]
_COMPLETIONS = KIND[b"/v1/completions"]
_RESPONSES = KIND[b"/v1/responses"]
_MESSAGES = KIND[b"/v1/messages"]
_EMBEDDINGS = KIND[b"/v1/embeddings"]
_TOKENIZE = KIND[b"/tokenize"]
_JSON_KINDS = [kind for kind in KINDS if not kind.multipart]
_JSON = b"application/json"


def _read(body: bytes, kind: Kind = _CHAT) -> Ask:
    return read(kind, _JSON, body)


def _written(body: bytes, model: Model | None = None, kind: Kind = _CHAT, cls: int = 1) -> bytes:
    return written(kind, body, _read(body, kind), model or Model(name="m"), cls)


def _refusal(body: bytes, kind: Kind = _CHAT, content_type: bytes | None = _JSON) -> Refused:
    with pytest.raises(Refused) as caught:
        read(kind, content_type, body)
    return caught.value


def _read_or_refused(body: bytes, kind: Kind) -> Ask | Refused:
    try:
        return _read(body, kind)
    except Refused as refusal:
        return refusal


# JSON in the spellings that clients have.

_SPELLINGS: tuple[Callable[[Any], str], ...] = (
    lambda value: json.dumps(value, separators=(",", ":")),
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    json.dumps,
    lambda value: json.dumps(value, indent=2) + "\n",
    lambda value: "\r\n\t " + json.dumps(value, indent="\t", separators=(" ,", " : ")) + " ",
)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS
    | st.sampled_from(['"model":"x"', '}{"', '\\"', '"stream":true', "\\u0022"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=8,
)
_LIMIT = st.none() | st.integers(-5, 5000) | st.sampled_from([16.0, 1e3])
_KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": _TEXTS}),
        max_size=3,
    ),
    "input": _TEXTS,
    "stream": st.none() | st.booleans(),
    "stream_options": st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "include_usage": st.none() | st.booleans(),
            "continuous_usage_stats": st.booleans(),
            "x": _VALUES,
        },
    ),
    "priority": st.none() | st.integers(-(2**63), 2**63 - 1),
    "max_tokens": _LIMIT,
    "max_completion_tokens": _LIMIT,
    "max_output_tokens": _LIMIT,
    "n": st.none() | st.integers(1, 4),
    "temperature": st.none() | st.floats(0, 2),
    "top_p": st.none() | st.floats(0, 1),
    "seed": st.none() | st.integers(),
}


@st.composite
def _documents(draw: st.DrawFn) -> dict[str, Any]:
    known = draw(st.fixed_dictionaries({"model": _TEXTS.filter(bool)}, optional=_KNOWN))
    unread = _TEXTS.filter(lambda text: text not in (*_KNOWN, "model", "background", "stop"))
    others = draw(st.dictionaries(unread, _VALUES))
    pairs = list({**others, **known}.items())
    return dict(draw(st.permutations(pairs)))


_MODELS = st.builds(
    Model,
    name=st.just("m"),
    engine_priority=st.booleans(),
    sampling=st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.just(0.7),
            "seed": st.just(7),
            "stop": st.just(["a", '"}']),
            "max_tokens": st.sampled_from([3, 800]),
            "stream": st.just(True),
        },
    ),
    limits=st.builds(Limits, max_tokens=st.none() | st.sampled_from([8, 100])),
)


def _expected(document: dict[str, Any], kind: Kind, model: Model, cls: int) -> dict[str, Any]:
    """What a worker is to read, by way of a dictionary."""
    out = dict(document)
    options = document.get("stream_options") or {}
    if kind.splices and document.get("stream") and not options.get("include_usage"):
        out["stream_options"] = {
            **{name: value for name, value in options.items() if name != "continuous_usage_stats"},
            "include_usage": True,
        }
    if kind.samples:
        for name, value in model.sampling.items():
            if name == "max_tokens":
                if all(out.get(limit) is None for limit in kind.limits):
                    out[kind.limits[-1]] = value
            elif name != "stream" and out.get(name) is None:
                out[name] = value
    cap = model.limits.max_tokens
    if kind.limits and cap is not None:
        given_ = [name for name in kind.limits if out.get(name) is not None]
        for name in given_:
            if not 0 <= out[name] <= cap:
                out[name] = cap
        if not given_ and not (kind.silent_limit is not None and kind.silent_limit <= cap):
            out[kind.limits[-1]] = cap
    if kind.prioritised:
        if model.engine_priority:
            out["priority"] = (-10, 0, 10)[cls]
        elif out.get("priority"):
            out["priority"] = 0
    return out


def _pairs(text: bytes) -> list[tuple[str, Any]]:
    """Key and value of each pair of the outermost object, doubles included."""
    found: list[list[tuple[str, Any]]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(pairs)
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    return found[-1]


@given(
    document=_documents(),
    spelling=st.sampled_from(_SPELLINGS),
    kind=st.sampled_from(_JSON_KINDS),
    model=_MODELS,
    cls=st.sampled_from([0, 1, 2]),
)
def test_what_the_worker_reads_is_what_a_dictionary_would_have_given(
    document: dict[str, Any], spelling: Callable[[Any], str], kind: Kind, model: Model, cls: int
) -> None:
    body = spelling(document).encode()
    ask = _read(body, kind)
    out = written(kind, body, ask, model, cls)
    expected = _expected(document, kind, model, cls)

    assert ask.model == document["model"]
    assert ask.stream == (bool(document.get("stream")) and kind.streams)
    assert json.loads(out) == expected
    pairs = _pairs(out)
    assert len(pairs) == len(expected), "a key comes twice"
    assert [name for name, _ in pairs][: len(document)] == list(document), "the order changed"
    raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    before, after = raw(body), raw(out)
    for name, value in document.items():
        if expected[name] is value:
            assert bytes(after[name]) == bytes(before[name]), f"{name} was written anew"
    if expected == document:
        assert out is body


@given(
    document=_documents(),
    data=st.data(),
    spelling=st.sampled_from(_SPELLINGS),
    escaped=st.booleans(),
)
def test_a_key_given_twice_is_refused_by_its_name(
    document: dict[str, Any], data: st.DataObject, spelling: Callable[[Any], str], escaped: bool
) -> None:
    name = data.draw(st.sampled_from(list(document)))
    again = data.draw(st.just(document[name]) | _VALUES)
    at = data.draw(st.integers(0, len(document)))
    pairs = list(document.items())
    pairs.insert(at, (name, again))
    key = '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"' if escaped else None
    if any(ord(c) > 0xFFFF for c in name):
        key = None
    texts = [
        (key if key and index == at else json.dumps(one)) + ": " + spelling(value)
        for index, (one, value) in enumerate(pairs)
    ]
    refusal = _refusal(("{" + " ,".join(texts) + "}").encode())
    assert (refusal.status, refusal.param) == (400, name[:100])
    assert "twice" in str(refusal)


def test_a_repeated_pair_is_found_whatever_its_length() -> None:
    """A compact body is told by its length alone: no double may make it look like another."""
    for keys in range(1, 9):
        pairs = ['"model":"m"', *(f'"k{at}":0' for at in range(1, keys))]
        for length in range(40):
            again = f'"model":"{"x" * length}"'
            for body in (",".join([*pairs, again]), ",".join([again, *pairs])):
                assert _refusal(b"{%b}" % body.encode()).param == "model"


def test_a_double_hidden_behind_a_nested_value_of_the_same_look_is_found() -> None:
    body = b'{"model":{"k":1,"b":2},"b":[7],"model":"wxyz"}'
    assert _refusal(body).param == "model"


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b'{"model":"m"')
@example(b'{"model":"m"}{"model":"m"}')
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"model":"m","x":' + b"[" * 3000 + b"]" * 3000 + b"}")
@example(b'{"model":"m","max_tokens":' + b"9" * 6000 + b"}")
@example(b'{"model":"m","stream":true,"stream_options":[]}')
@example(b'{"model":1e999}')
def test_whatever_comes_is_read_or_refused_in_one_line(body: bytes) -> None:
    for kind in _JSON_KINDS:
        found = _read_or_refused(body, kind)
        if isinstance(found, Refused):
            assert found.status == 400
            assert str(found)
            assert "\n" not in str(found)
        else:
            assert written(kind, body, found, Model(name="m"), 1)


@pytest.mark.parametrize(
    ("body", "line", "param"),
    [
        (b"", "the body is empty; a JSON object is expected", None),
        (b" \n", "the body is empty; a JSON object is expected", None),
        (b"[]", "the body is not a JSON object", None),
        (b'"model"', "the body is not a JSON object", None),
        (b"null", "the body is not a JSON object", None),
        (b"{}", "model: missing; GET /v1/models names what is served", "model"),
        (b'{"model":null}', "model: missing; GET /v1/models names what is served", "model"),
        (b'{"model":""}', "model: empty; GET /v1/models names what is served", "model"),
        (b'{"model":7}', "model: a string is expected", "model"),
        (b'{"model":["m"]}', "model: a string is expected", "model"),
        (b'{"model":"%b"}' % (b"m" * 1025), "model: longer than 1024 characters", "model"),
        (b'{"model":"m","stream":1}', "stream: true or false is expected", "stream"),
        (b'{"model":"m","stream":"yes"}', "stream: true or false is expected", "stream"),
        (
            b'{"model":"m","stream":true,"stream_options":1}',
            "stream_options: an object is expected",
            "stream_options",
        ),
        (
            b'{"model":"m","stream":true,"stream_options":{"include_usage":1}}',
            "stream_options.include_usage: true or false is expected",
            "stream_options.include_usage",
        ),
        (b'{"model":"m","priority":0.5}', "priority: a whole number is expected", "priority"),
        (b'{"model":"m","priority":true}', "priority: a whole number is expected", "priority"),
        (b'{"model":"m","max_tokens":"9"}', "max_tokens: a whole number is expected", "max_tokens"),
        (b'{"model":"m","n":[]}', "n: a whole number is expected", "n"),
        (b'{"model":"m","x":"\xff"}', "the body is not UTF-8 (byte 18)", None),
        (
            b'\xef\xbb\xbf{"model":"m"}',
            "the body starts with a byte order mark; JSON has none",
            None,
        ),
        (
            b'{"model":"m","x":' + b"[" * 2000 + b"]" * 2000 + b"}",
            "the body is nested too deeply",
            None,
        ),
        (b'{"model":"m","model":"n"}', "'model' is given twice in the body", "model"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(body: bytes, line: str, param: str | None) -> None:
    refusal = _refusal(body)
    assert (refusal.status, str(refusal), refusal.param) == (400, line, param)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","x":NaN}',
        b'{"model":"m","x":-Infinity}',
        b'{"model":"m","x":01}',
        b'{"model":"m",}',
        b'{"model":"m"} x',
        b'{"model":"m"}{}',
        b'{"model":"m","x":"\n"}',
        b'{"model":"m","x":"\\ud800"}',
        b'{"model":"m"',
        b"{'model':'m'}",
        b"model=m",
    ],
)
def test_what_is_no_json_is_refused_with_what_the_reader_says(body: bytes) -> None:
    refusal = _refusal(body)
    assert refusal.status == 400
    assert str(refusal).startswith("the body is not JSON: ")


def test_utf_16_is_refused() -> None:
    assert _refusal('{"model":"m"}'.encode("utf-16")).status == 400


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"application/json", None),
        (b"Application/JSON; charset=UTF-8", None),
        (b'application/json ; charset="utf-8"', None),
        (b"application/json;charset=latin-1", 415),
        (b"application/x-www-form-urlencoded", 415),
        (b"text/plain", 415),
        (b"", 415),
        (None, 415),
    ],
)
def test_only_json_in_utf_8_is_taken(content_type: bytes | None, status: int | None) -> None:
    if status is None:
        assert read(_CHAT, content_type, b'{"model":"m"}').model == "m"
    else:
        assert _refusal(b'{"model":"m"}', content_type=content_type).status == status


# What a stream is asked for.


def test_a_stream_is_asked_for_its_usage_and_what_the_client_wrote_stays() -> None:
    body = b'{"model":"m","stream":true, "x":1e2}\n'
    out = b'{"model":"m","stream":true, "x":1e2,"stream_options":{"include_usage":true}}\n'
    assert _written(body) == out
    assert _read(body).strips


def test_a_stream_whose_client_asks_itself_is_left_alone() -> None:
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    assert _written(body) is body
    assert not _read(body).strips


def test_usage_in_every_event_is_only_asked_for_by_who_asked_for_usage() -> None:
    """vLLM passes over `continuous_usage_stats` alone: a client that wrote it saw no usage."""
    options = b'{"include_usage":false,"continuous_usage_stats":true}'
    body = b'{"stream_options":%b,"stream":true,"model":"m"}' % options
    assert json.loads(_written(body))["stream_options"] == {"include_usage": True}
    options = b'{"include_usage":true,"continuous_usage_stats":true}'
    body = b'{"stream_options":%b,"stream":true,"model":"m"}' % options
    assert _written(body) is body


@pytest.mark.parametrize("kind", [_RESPONSES, _MESSAGES, _EMBEDDINGS], ids=lambda kind: kind.name)
def test_streams_that_tell_their_usage_anyway_are_not_asked(kind: Kind) -> None:
    body = b'{"model":"m","stream":true}'
    assert _written(body, kind=kind) is body
    assert not _read(body, kind).strips


def test_an_answer_in_one_piece_is_not_asked() -> None:
    body = b'{"model":"m","stream":false}'
    assert _written(body) is body


# Defaults, caps, priority.


def test_an_instruction_that_says_null_is_silent() -> None:
    model = Model(name="m", sampling={"temperature": 0.5})
    assert (
        _written(b'{"temperature":null,"model":"m"}', model) == b'{"temperature":0.5,"model":"m"}'
    )
    body = b'{"temperature":0,"model":"m"}'
    assert _written(body, model) is body


def test_a_default_limit_has_the_name_that_the_path_uses() -> None:
    model = Model(name="m", sampling={"max_tokens": 9})
    assert _written(b'{"model":"m"}', model, _RESPONSES) == b'{"model":"m","max_output_tokens":9}'
    body = b'{"model":"m","max_completion_tokens":5}'
    assert _written(body, model) is body


def test_paths_without_sampling_get_no_defaults() -> None:
    body = b'{"model":"m"}'
    model = Model(name="m", sampling={"temperature": 0.5}, limits=Limits(max_tokens=4))
    assert _written(body, model, _EMBEDDINGS) is body
    assert _written(body, model, _TOKENIZE) is body


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, {"max_tokens": 100}),
        ({"max_tokens": None}, {"max_tokens": 100}),
        ({"max_tokens": 99}, {"max_tokens": 99}),
        ({"max_tokens": 101}, {"max_tokens": 100}),
        ({"max_tokens": -1}, {"max_tokens": 100}),
        ({"max_tokens": 0}, {"max_tokens": 0}),
        ({"max_completion_tokens": 500}, {"max_completion_tokens": 100}),
        (
            {"max_completion_tokens": 500, "max_tokens": 7},
            {"max_completion_tokens": 100, "max_tokens": 7},
        ),
        (
            {"max_completion_tokens": 5, "max_tokens": 700},
            {"max_completion_tokens": 5, "max_tokens": 100},
        ),
    ],
)
def test_no_request_gets_more_tokens_than_the_cap(
    limits: dict[str, Any], expected: dict[str, Any]
) -> None:
    model = Model(name="m", limits=Limits(max_tokens=100))
    out = json.loads(_written(json.dumps({"model": "m", **limits}).encode(), model))
    assert {name: out[name] for name in out if name != "model"} == expected


def test_a_completion_that_says_nothing_keeps_the_16_tokens_of_its_api() -> None:
    body = b'{"model":"m"}'
    assert _written(body, Model(name="m", limits=Limits(max_tokens=100)), _COMPLETIONS) is body
    out = _written(body, Model(name="m", limits=Limits(max_tokens=8)), _COMPLETIONS)
    assert out == b'{"model":"m","max_tokens":8}'


def test_an_engine_that_schedules_by_priority_is_told_the_class_and_not_what_the_client_says() -> (
    None
):
    model = Model(name="m", engine_priority=True)
    body = b'{"model":"m","priority":-99}'
    assert _written(body, model, cls=2) == b'{"model":"m","priority":10}'
    assert _written(b'{"model":"m"}', model, cls=0) == b'{"model":"m","priority":-10}'


def test_an_engine_that_does_not_is_told_zero_which_is_all_it_takes() -> None:
    assert _written(b'{"model":"m","priority":5}') == b'{"model":"m","priority":0}'
    body = b'{"model":"m","priority":0}'
    assert _written(body) is body


@pytest.mark.parametrize(
    ("header", "priority", "cls"),
    [
        (None, None, 1),
        (None, 0, 1),
        (None, -1, 0),
        (None, 2**62, 2),
        (b"high", 7, 0),
        (b" LOW", -7, 2),
        (b"normal", None, 1),
    ],
)
def test_the_header_goes_before_the_body(
    header: bytes | None, priority: int | None, cls: int
) -> None:
    assert class_of(header, priority) == cls


def test_another_word_for_a_class_is_refused() -> None:
    with pytest.raises(Refused, match="x-priority: 'urgent' is not high, normal or low"):
        class_of(b"urgent", None)


def test_a_response_in_the_background_is_refused_since_nothing_would_count_it() -> None:
    refusal = _refusal(b'{"model":"m","background":true}', _RESPONSES)
    assert (refusal.status, refusal.param) == (400, "background")
    assert _read(b'{"model":"m","background":false}', _RESPONSES).model == "m"
    assert _read(b'{"model":"m","background":true}').model == "m"


# Estimates.


def test_an_estimate_is_of_prompt_and_answer() -> None:
    body = b'{"model":"m","max_tokens":50,"messages":"' + b"x" * 400 + b'"}'
    ask = _read(body)
    assert ask.prompt_estimate == len(body) // 4
    assert ask.estimate == ask.prompt_estimate + 50
    assert ask.bounded(120) == 120
    assert ask.bounded(None) == ask.estimate


def test_several_answers_are_estimated_as_several() -> None:
    one = _read(b'{"model":"m","max_tokens":50,"n":1}')
    four = _read(b'{"model":"m","max_tokens":50,"n":4}')
    assert four.estimate - one.estimate == 150


def test_the_limit_that_counts_is_the_one_that_vllm_takes() -> None:
    assert _read(b'{"model":"m","max_tokens":5,"max_completion_tokens":9}').max_tokens == 9
    assert _read(b'{"model":"m","max_tokens":5,"max_completion_tokens":null}').max_tokens == 5


def test_an_absurd_limit_does_not_make_an_absurd_estimate() -> None:
    assert _read(b'{"model":"m","max_tokens":1e300}').estimate == bodies.MOST_TOKENS


def test_what_only_runs_a_tokenizer_costs_nothing() -> None:
    assert _read(b'{"model":"m","prompt":"hello"}', _TOKENIZE).estimate == 0


def test_what_generates_nothing_is_estimated_by_its_prompt() -> None:
    body = b'{"model":"m","input":"' + b"x" * 378 + b'"}'
    assert _read(body, _EMBEDDINGS).estimate == len(body) // 4


def test_an_image_in_a_body_is_estimated_as_an_image_and_not_as_text() -> None:
    image = b'"data:image/png;base64,%b"' % (b"A" * 400_000)
    body = b'{"model":"m","max_tokens":1,"messages":[{"url":%b},{"url":%b}]}' % (image, image)
    assert 2 * bodies.IMAGE_TOKENS <= _read(body).estimate < 2 * bodies.IMAGE_TOKENS + 50


# Where a prompt begins.


def _prefix(kind: Kind = _CHAT, **fields: Any) -> int:
    return _read(json.dumps({"model": "m", **fields}).encode(), kind).prefix


def _turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


@pytest.mark.parametrize("system", [None, "be brief", 'say "role" and \\"role\\"'])
def test_all_turns_of_a_conversation_begin_alike(system: str | None) -> None:
    first = _prefix(messages=_turns("hello", system=system))
    assert first
    assert first == _prefix(messages=_turns("hello", "hi", "and?", system=system))
    assert first == _prefix(messages=_turns("hello", "hi", "and?", "so", "x", system=system), n=2)
    assert first != _prefix(messages=_turns("good day", "hi", system=system))


def test_conversations_with_the_same_instructions_differ_by_their_first_question() -> None:
    system = "you are an assistant " * 200
    one = _prefix(messages=_turns("a", system=system))
    assert one != _prefix(messages=_turns("b", system=system))
    assert one != _prefix(messages=_turns("a", system="you are another"))


def test_anthropic_and_responses_begin_with_their_instructions() -> None:
    one = _prefix(_MESSAGES, system="s", messages=_turns("a", "b", "c"))
    assert one == _prefix(_MESSAGES, messages=_turns("a"), system="s")
    assert one != _prefix(_MESSAGES, messages=_turns("a"), system="t")
    two = _prefix(_RESPONSES, instructions="s", input=_turns("a", "b", "c"))
    assert two == _prefix(_RESPONSES, input=_turns("a"), instructions="s")
    assert _prefix(_RESPONSES, input="a") != _prefix(_RESPONSES, input="b")


def test_plain_prompts_are_alike_if_they_begin_alike() -> None:
    template = "Translate. " * 100
    one = _prefix(_COMPLETIONS, prompt=template + "a")
    assert one == _prefix(_COMPLETIONS, prompt=template + "another one")
    assert one != _prefix(_COMPLETIONS, prompt="x" + template)


def test_what_has_no_prompt_has_no_prefix() -> None:
    assert _prefix(_EMBEDDINGS, input="a") == 0
    assert _prefix(_CHAT, other=1) == 0
