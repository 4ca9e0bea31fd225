"""Every key of a TOML text is found, on the line where it stands."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_console.fleet.lines import key_lines

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""

Path = tuple[str | int, ...]


def line_of(text: str, *path: str | int) -> int:
    return key_lines(text)[path]


def test_keys_headers_and_comments_count_lines() -> None:
    text = '# fleet = 1\n\n[fleet]\nname = "a" # = b\n\n[models.x]\nsource = "s"\n'
    assert line_of(text, "fleet") == 3
    assert line_of(text, "fleet", "name") == 4
    assert line_of(text, "models", "x") == 6
    assert line_of(text, "models", "x", "source") == 7


@pytest.mark.parametrize(
    "value",
    [
        '"""\n[no]\nx = 1 # \\"""\n"""',
        "'''\n[no]\n'x' = 1\n''''",
        '[ # ]\n "]", # "\n 2,\n]',
        '{ a = [\n1,\n2 ] }',
        '"a\\"\\\\"',
        "'\\'",
        '""""quoted""""',
    ],
)  # fmt: skip
def test_nothing_inside_a_value_is_taken_for_a_key(value: str) -> None:
    text = f"first = {value}\nlast = 1\n"
    tomllib.loads(text)
    assert line_of(text, "last") == 2 + value.count("\n")
    assert ("no",) not in key_lines(text)


def test_quoted_and_dotted_keys_are_taken_apart() -> None:
    text = '[models . "qwen2.5"]\n"a\\u0062" . \'c.d\' = 1\n'
    assert line_of(text, "models", "qwen2.5", "ab", "c.d") == 2


def test_elements_of_an_array_have_their_own_line() -> None:
    text = 'aliases = [\n  "a",\n  "b",\n]\n'
    assert line_of(text, "aliases", 1) == 3


def test_tables_of_an_array_are_numbered() -> None:
    text = "[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 3\n[[a.c]]\nz = 4\n"
    assert line_of(text, "a", 0, "x") == 2
    assert line_of(text, "a", 1, "x") == 4
    assert line_of(text, "a", 1, "b", "y") == 6
    assert line_of(text, "a", 1, "c", 0, "z") == 8


def test_a_windows_line_end_counts_once() -> None:
    assert line_of("a = 1\r\n# c\r\nb = 2\r\n", "b") == 3


SCALARS = (
    '1', 'true', '-inf', '1979-05-27T07:32:00Z', '"a # b = c [x] {"', "'lit\\'", '""',
    '"""\nmulti\n[x]\ny = 1 # no\n"""', "'''\n''x''\n'''", '""""quoted""""', '"\\"]}"',
)  # fmt: skip


@dataclass
class Written:
    """A TOML text that notes where it writes each key."""

    text: str = ""
    lines: dict[Path, int] = field(default_factory=dict)

    def note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)


class Writer:
    """Writes a random document; every key ends in a number, so that none comes twice."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.out = Written()
        self.count = 0

    def key(self) -> str:
        self.count += 1
        return f"{self.draw(st.sampled_from(('a', 'b.c', 'é', '[', '=', '# ', 'Z_-')))}{self.count}"

    def write_key(self, key: str) -> None:
        bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
        self.out.text += key if bare and self.draw(st.booleans()) else json.dumps(key)

    def pair(self, table: Path, depth: int) -> None:
        path = table
        for index in range(self.draw(st.integers(1, 3))):
            key = self.key()
            path = (*path, key)
            self.out.note(path)
            self.out.text += self.draw(st.sampled_from(("", " "))) if index == 0 else " . "
            self.write_key(key)
        self.out.text += self.draw(st.sampled_from(("=", " = ", "\t=")))
        self.value(path, depth)

    def value(self, path: Path, depth: int) -> None:
        kind = self.draw(st.sampled_from(("scalar", "array", "table"))) if depth else "scalar"
        if kind == "scalar":
            self.out.text += self.draw(st.sampled_from(SCALARS))
        elif kind == "array":
            self.out.text += "["
            for index in range(self.draw(st.integers(0, 3))):
                self.out.text += self.draw(st.sampled_from(("", "\n", " # ], '\n  ")))
                self.out.note((*path, index))
                self.value((*path, index), depth - 1)
                self.out.text += self.draw(st.sampled_from((",", " ,\n")))
            self.out.text += "]"
        else:
            self.out.text += "{"
            for index in range(self.draw(st.integers(0, 3))):
                self.out.text += ", " if index else " "
                self.pair(path, depth - 1)
            self.out.text += " }"

    def statements(self, table: Path) -> None:
        for _ in range(self.draw(st.integers(0, 3))):
            self.out.text += self.draw(st.sampled_from(("", "\n", "# x = [\n")))
            self.pair(table, 2)
            self.out.text += self.draw(st.sampled_from(("\n", "  # ' end\n", "\r\n")))

    def document(self) -> Written:
        self.statements(())
        for _ in range(self.draw(st.integers(0, 3))):
            keys = [self.key() for _ in range(self.draw(st.integers(1, 2)))]
            repeats = self.draw(st.integers(0, 2))
            for index in range(max(1, repeats)):
                path: Path = ()
                for key in keys:
                    path = (*path, key)
                    self.out.note(path)
                if repeats:
                    path = (*path, index)
                    self.out.note(path)
                self.out.text += "[[" if repeats else "["
                for position, key in enumerate(keys):
                    self.out.text += "." if position else ""
                    self.write_key(key)
                self.out.text += "]]\n" if repeats else "]\n"
                self.statements(path)
        return self.out


@UNHURRIED
@given(st.data())
def test_the_scanner_finds_every_key_of_any_document(data: st.DataObject) -> None:
    written = Writer(data.draw).document()
    tomllib.loads(written.text)
    assert dict(key_lines(written.text)) == written.lines
