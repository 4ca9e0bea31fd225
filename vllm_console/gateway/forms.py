"""The few fields that routing reads of a multipart form (RFC 7578), with its files left alone.

Strict where readers of forms differ: a form that another reader could take differently is refused,
so that the model whose key was checked is the model that is served.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from vllm_console.gateway.refusals import Refused, refused, shown

MOST_PARTS: Final = 1000
"""Parts of a form; Starlette, which reads it at the worker, takes as many."""
LONGEST_HEAD: Final = 8192
"""Bytes of one part's headers."""
LONGEST_FIELD: Final = 4096
"""Bytes of a field that is read."""

_TYPE = re.compile(
    rb"multipart/form-data[ \t]*;[ \t]*"
    rb"(?:charset=\"?utf-?8\"?[ \t]*;[ \t]*)?"
    rb"boundary=(?:\"([0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-])\""
    rb"|([0-9A-Za-z'+_.-]{1,70}))"
    rb"(?:[ \t]*;[ \t]*charset=\"?utf-?8\"?)?[ \t]*",
    re.IGNORECASE,
).fullmatch
"""The boundary has at most 70 of these characters (RFC 2046 §5.1.1)."""
_PARAMETER = (
    rb"[ \t]*;[ \t]*(?:(name)=(?:\"([^\"\\\r\n]*)\"|([\w.-]+))"
    rb"|filename=(?:\"(?:[^\"\\\r\n]|\\[^\r\n])*\"|[\w.-]+)|filename\*=[^\s;\"]+)"
)
_DISPOSITION = re.compile(
    rb"content-disposition:[ \t]*form-data((?:%b)+)" % _PARAMETER, re.IGNORECASE
).fullmatch
_UNCLEAR = re.compile(rb"\r\n[ \t]|(?<!\r)\n|\r(?!\n)").search
"""A folded header, or half of a line's end: readers differ in what they make of it."""
_PARAMETERS = re.compile(_PARAMETER, re.IGNORECASE).findall


def fields(content_type: bytes | None, body: bytes, wanted: Collection[str]) -> dict[str, str]:
    """The plain fields of these names. Raises `Refused` of 400 or 415."""
    typed = _TYPE(content_type or b"")
    if typed is None:
        media = (content_type or b"").partition(b";")[0].strip().lower()
        if media == b"multipart/form-data":
            raise refused(400, "content-type: a boundary of 1 to 70 characters is expected")
        named = shown(media.decode("latin-1")) if media else "none"
        raise refused(415, f"content-type: {named}; this path takes multipart/form-data")
    delimiter = b"--" + (typed[1] or typed[2])
    if not body.startswith(delimiter):
        raise refused(400, "the form does not begin with its boundary")
    found: dict[str, str] = {}
    at = len(delimiter)
    for number in range(1, MOST_PARTS + 2):
        if body.startswith(b"--", at):
            return found
        if not body.startswith(b"\r\n", at):
            break
        head = body.find(b"\r\n\r\n", at, at + LONGEST_HEAD)
        end = body.find(b"\r\n" + delimiter, head + 4) if head >= 0 else -1
        if end < 0:
            break
        name, is_file = _named(body[at + 2 : head], number)
        if name in wanted:
            if name in found:
                raise refused(400, f"{name}: given twice in the form", param=name)
            if is_file or end - head - 4 > LONGEST_FIELD:
                raise refused(400, f"{name}: a short text is expected", param=name)
            found[name] = _text(name, body[head + 4 : end])
        at = end + 2 + len(delimiter)
    raise _broken(number)


def asked_for_usage(body: bytes) -> bytes:
    """The form with one more field, first: its stream is to tell its usage at the end.

    `fields` has been through with the form and found no field of that name.
    """
    delimiter = body[: body.index(b"\r\n")]
    field = b'content-disposition: form-data; name="stream_include_usage"\r\n\r\ntrue'
    return b"%b\r\n%b\r\n%b" % (delimiter, field, body)


def _named(head: bytes, number: int) -> tuple[str, bool]:
    """A part's name, and whether it is a file."""
    said = [one for one in head.split(b"\r\n") if one[:19].lower() == b"content-disposition"]
    matched = _DISPOSITION(said[0].rstrip(b" \t")) if len(said) == 1 else None
    if matched is None or _UNCLEAR(head):
        raise _broken(number)
    parameters = _PARAMETERS(matched[1])
    names = [quoted or bare for key, quoted, bare in parameters if key]
    if len(names) != 1:
        raise _broken(number)
    return _text("name", names[0]), len(parameters) > 1


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise refused(400, f"{name}: not UTF-8", param=name) from None


def _broken(number: int) -> Refused:
    if number > MOST_PARTS:
        return refused(400, f"the form has more than {MOST_PARTS} parts")
    return refused(400, f"the form is broken off or unclear at part {number}")
