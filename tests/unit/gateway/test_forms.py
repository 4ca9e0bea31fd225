"""Fields of multipart forms, against the standard library's own reading of MIME."""

from __future__ import annotations

import email.policy
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.gateway import forms
from vllm_console.gateway.body import Ask, read, written
from vllm_console.gateway.paths import KIND
from vllm_console.gateway.refusals import Refused
from vllm_console.gateway.table import Model

_AUDIO = KIND[b"/v1/audio/transcriptions"]
_TYPE = b"multipart/form-data; boundary=xyz"
_FILE = b'form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav'

Part = tuple[bytes, bytes]


def _form(*parts: Part, boundary: bytes = b"xyz") -> bytes:
    """A form of parts, each what its Content-Disposition says and its content."""
    pieces = [
        b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (boundary, said, content)
        for said, content in parts
    ]
    return b"".join(pieces) + b"--%b--\r\n" % boundary


def _field(name: bytes, value: bytes) -> Part:
    return b'form-data; name="%b"' % name, value


def _read(body: bytes, content_type: bytes | None = _TYPE) -> Ask:
    return read(_AUDIO, content_type, body)


def _refusal(body: bytes, content_type: bytes | None = _TYPE) -> Refused:
    with pytest.raises(Refused) as caught:
        _read(body, content_type)
    return caught.value


def _by_the_library(content_type: bytes, body: bytes) -> dict[str, list[tuple[bool, bytes]]]:
    """Every part's name with whether it is a file and its content."""
    parser = BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"Content-Type: %b\r\n\r\n%b" % (content_type, body))
    found: dict[str, list[tuple[bool, bytes]]] = {}
    for part in message.iter_parts():
        disposition = part["Content-Disposition"]
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        name = disposition.params["name"]
        found.setdefault(name, []).append((part.get_filename() is not None, content))
    return found


def test_the_model_is_read_and_the_file_is_not() -> None:
    audio = b"RIFF\r\n--xy\r\nmodel\r\n\r\n" + bytes(range(256)) * 40
    ask = _read(_form((_FILE, audio), _field(b"model", b"whisper"), _field(b"language", b"en")))
    assert (ask.model, ask.stream, ask.strips) == ("whisper", False, False)
    assert ask.estimate > 0
    assert ask.prefix == 0


_WORDS = st.text("abcXYZ09 .-_é", min_size=1, max_size=12).map(str.encode)


@given(
    model=_WORDS.map(bytes.strip).filter(bool),
    others=st.lists(st.tuples(st.sampled_from([b"language", b"prompt", b"x"]), _WORDS), max_size=4),
    audio=st.binary(max_size=300).filter(lambda blob: b"--xyz" not in blob),
    at=st.integers(0, 5),
)
def test_what_is_read_is_what_the_library_reads(
    model: bytes, others: list[Part], audio: bytes, at: int
) -> None:
    parts = [_field(name, value) for name, value in others]
    parts.insert(at, (_FILE, audio))
    parts.insert(at, _field(b"model", model))
    body = _form(*parts)
    assert _read(body).model == model.decode()
    assert _by_the_library(_TYPE, body)["model"] == [(False, model)]


@pytest.mark.parametrize(
    "content_type",
    [
        b'multipart/form-data; boundary="xyz"',
        b"Multipart/Form-Data;boundary=xyz",
        b"multipart/form-data; boundary=xyz; charset=utf-8",
        b"multipart/form-data; charset=UTF-8; boundary=xyz",
    ],
)
def test_the_boundary_may_be_said_in_other_ways(content_type: bytes) -> None:
    assert _read(_form(_field(b"model", b"m")), content_type).model == "m"


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=%b" % (b"x" * 71),
        b"multipart/form-data; boundary=xyz; boundary=abc",
        b"multipart/form-data; boundary=xyz; charset=utf-16",
        b"multipart/form-data; boundary=x\xff",
    ],
)
def test_a_boundary_that_is_not_clear_is_refused(content_type: bytes) -> None:
    refusal = _refusal(_form(_field(b"model", b"m")), content_type)
    assert (refusal.status, "boundary" in str(refusal)) == (400, True)


@pytest.mark.parametrize("content_type", [None, b"", b"application/json", b"multipart/mixed"])
def test_another_type_is_refused(content_type: bytes | None) -> None:
    assert _refusal(_form(_field(b"model", b"m")), content_type).status == 415


@pytest.mark.parametrize(
    "said",
    [
        b'form-data; name="mod\\el"',
        b'form-data; name="x"; name="model"',
        b"form-data; name*=utf-8''model",
        b'form-data; name="x"\r\nContent-Disposition: form-data; name="model"',
        b'form-data;\r\n name="model"',
        b'form-data; name="x"\r\n ; name="model"',
        b'form-data; name="x"\r\nX: y\nContent-Disposition: form-data; name="model"',
        b'form-data; name="x"\r\nX: y\rContent-Disposition: form-data; name="model"',
        b'attachment; name="model"',
        b"form-data",
        b'form-data; name="model"; size=3',
        b'form-data; name="mo\ndel"',
        b'form-data; name="\xff"',
    ],
)
def test_a_name_that_readers_could_take_differently_is_refused(said: bytes) -> None:
    assert _refusal(_form(_field(b"model", b"m"), (said, b"other"))).status == 400


@pytest.mark.parametrize(
    "said",
    [
        b'form-data; name="file"; filename="a \\"b\\".wav"',
        b'form-data; name="file"; filename="a.wav"; filename*=utf-8\'\'%C3%A9.wav',
        b"form-data; filename=a.wav; name=file",
        b'Form-Data ; name="file" ;filename=""',
    ],
)
def test_names_of_files_are_taken_as_clients_write_them(said: bytes) -> None:
    assert _read(_form((said, b"RIFF"), _field(b"model", b"m"))).model == "m"


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ((_field(b"language", b"en"),), "model: missing; GET /v1/models names what is served"),
        ((_field(b"model", b""),), "model: empty; GET /v1/models names what is served"),
        ((_field(b"model", b"m"), _field(b"model", b"m")), "model: given twice in the form"),
        ((_field(b"model", b"m" * 5000),), "model: a short text is expected"),
        ((_field(b"model", b"m" * 1500),), "model: longer than 1024 characters"),
        ((_field(b"model", b"\xff"),), "model: not UTF-8"),
        (
            ((b'form-data; name="model"; filename="m"', b"m"),),
            "model: a short text is expected",
        ),
        (
            (_field(b"model", b"m"), _field(b"stream", b"maybe")),
            "stream: true or false is expected",
        ),
        ((_field(b"x", b""),) * 1001, "the form has more than 1000 parts"),
    ],
)
def test_what_is_wrong_with_a_field_is_said_in_one_line(parts: tuple[Part, ...], line: str) -> None:
    refusal = _refusal(_form(*parts))
    assert (refusal.status, str(refusal)) == (400, line)


def test_as_many_parts_as_the_worker_takes_are_taken() -> None:
    assert _read(_form(*(_field(b"x", b""),) * 999, _field(b"model", b"m"))).model == "m"


def test_a_form_that_breaks_off_anywhere_is_refused() -> None:
    whole = _form(_field(b"model", b"m"), (_FILE, b"RIFF"))
    for end in range(len(whole) - len(b"--\r\n")):
        refusal = _refusal(whole[:end])
        assert refusal.status == 400
        assert "\n" not in str(refusal)


def test_headers_are_not_searched_for_their_end_for_long() -> None:
    size = forms.LONGEST_HEAD
    for filler, refused in ((size - 100, False), (size, True), (1 << 20, True)):
        said = b'form-data; name="x"\r\nX: %b' % (b"y" * filler)
        body = _form((said, b""), _field(b"model", b"m"))
        if refused:
            assert _refusal(body).status == 400
        else:
            assert _read(body).model == "m"


@pytest.mark.parametrize("filler", [b" ", b"\t", b";", b' ;name="', b"; filename=", b"\\"])
def test_headers_made_to_be_slow_are_refused_like_any_other(filler: bytes) -> None:
    said = (b"form-data" + filler * 8192)[: forms.LONGEST_HEAD - 40]
    body = _form(*((said, b""),) * 500)
    assert _refusal(body).status == 400


# What is changed.


def test_a_stream_is_asked_for_its_usage_by_one_more_field() -> None:
    body = _form(_field(b"model", b"m"), _field(b"stream", b"true"), (_FILE, b"RIFF\r\n\xff"))
    ask = _read(body)
    out = written(_AUDIO, body, ask, Model(name="m"), 1)
    assert ask.strips
    assert out.endswith(body)
    fields = _by_the_library(_TYPE, out)
    assert fields.pop("stream_include_usage") == [(False, b"true")]
    assert fields == _by_the_library(_TYPE, body)
    assert forms.fields(_TYPE, out, {"stream_include_usage"}) == {"stream_include_usage": "true"}


@pytest.mark.parametrize("said", [b"true", b"false"])
def test_a_client_that_speaks_of_usage_itself_is_left_alone(said: bytes) -> None:
    body = _form(
        _field(b"model", b"m"), _field(b"stream", b"1"), _field(b"stream_include_usage", said)
    )
    ask = _read(body)
    assert (ask.stream, ask.strips) == (True, False)
    assert written(_AUDIO, body, ask, Model(name="m"), 1) is body


def test_an_answer_in_one_piece_is_not_asked() -> None:
    body = _form(_field(b"model", b"m"), _field(b"stream", b"false"))
    assert written(_AUDIO, body, _read(body), Model(name="m"), 1) is body
