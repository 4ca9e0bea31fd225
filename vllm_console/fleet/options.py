"""Engine options: checked against the flags of one vLLM version, and turned into its arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_console.fleet.problems import Problem, did_you_mean, nearest, shown

Takes = Literal["toggle", "switch", "int", "float", "human-int", "json", "json-or-text", "text"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One `vllm serve` flag."""

    name: str
    """snake_case, as fleet.toml writes it."""
    flags: tuple[str, ...]
    takes: Takes
    """A toggle has a --no- form, a switch has none; human-int reads "64M" and "25.6k"."""
    many: Literal["no", "list", "repeat"] = "no"
    """Whether several values follow the flag, or the flag is repeated for each."""
    choices: tuple[str, ...] = ()
    folds_case: bool = False
    """Whether vLLM lowers the text before it compares it with the choices."""
    auto: bool = False
    """Whether "auto" and -1 are values too."""
    bare: bool = False
    """Whether the flag may stand without a value."""
    default: Any = None
    group: str = ""
    help: str = ""

    @property
    def long(self) -> str:
        """The flag as it goes on a command line."""
        return self.flags[0]

    @property
    def negative(self) -> str | None:
        """The --no- form; `None` where there is none."""
        return next((f for f in self.flags if f.startswith("--no-") and f != self.long), None)


@dataclass(frozen=True)
class FlagSchema:
    """Every flag of one vLLM version."""

    version: str
    flags: Mapping[str, Flag]
    """By snake_case name."""
    _by_spelling: Mapping[str, Flag] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        spellings = {text: flag for flag in self.flags.values() for text in flag.flags}
        object.__setattr__(self, "_by_spelling", spellings)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FlagSchema:
        """From a dump of vLLM's own argument parser: `{"dists": {…}, "flags": [{…}, …]}`."""
        flags = (_flag(entry) for entry in data["flags"] if entry["flags"])
        dists = data.get("dists") or {}
        version = dists.get("vllm") or next(iter(dists.values()), "unknown")
        return cls(version=version, flags={flag.name: flag for flag in flags})

    def __contains__(self, option: str) -> bool:
        return self.find(option) is not None

    def find(self, option: str) -> Flag | None:
        """The flag an option of fleet.toml means, by its name, second name or `no_` form."""
        return self._by_spelling.get(long_flag(option))

    def nearest(self, option: str) -> str | None:
        """The name closest to an option that is none; knows short flags such as `tp`."""
        short = self._by_spelling.get(f"-{option.lstrip('-')}")
        return short.name if short else nearest(option.lstrip("-"), self.flags)


def _flag(entry: Mapping[str, Any]) -> Flag:
    kind, type_, nargs, text = entry["kind"], entry["type"], entry["nargs"], entry["help"] or ""
    return Flag(
        name=entry["dest"],
        flags=tuple(sorted(entry["flags"], key=lambda flag: not flag.startswith("--"))),
        takes=_takes(kind, type_, text),
        many="repeat" if "Append" in kind else "list" if nargs in ("+", "*") else "no",
        choices=tuple(entry["choices"] or ()),
        folds_case=type_ == "<lambda>",
        auto=type_ == "human_readable_int_or_auto",
        bare=nargs == "?",
        default=entry["default"],
        group=entry["group"] or "",
        help=text,
    )


def _takes(kind: str, type_: str | None, text: str) -> Takes:
    if kind == "BooleanOptionalAction":
        return "toggle"
    if kind.startswith(("_StoreTrue", "_StoreFalse", "_StoreConst")):
        return "switch"
    if type_ == "int" or type_ == "float":
        return "int" if type_ == "int" else "float"
    # vLLM hides the type of an optional value behind a closure; its help still tells
    if (type_ or "").startswith("human_readable_int") or "human-readable int" in text:
        return "human-int"
    if type_ == "union_dict_and_str":
        return "json-or-text"
    if type_ in ("loads", "parse_dataclass", "_parse_type") or "valid JSON string" in text:
        return "json"
    return "text"


def long_flag(option: str) -> str:
    """`--max-num-seqs` of `max_num_seqs`."""
    return "--" + option.replace("_", "-")


_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def human_int(value: int | str) -> int:
    """An integer as vLLM reads it: 1k is 1,000, 1K is 1,024, 25.6k is 25,600.

    Raises `ValueError` for anything else, as for a fraction of a binary unit (vLLM,
    `human_readable_int`).
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _HUMAN.fullmatch(str(value).strip())
    if match is None:
        raise ValueError('must be a whole number, or one with a unit such as "64M" or "25.6k"')
    number, unit = match.groups()
    if "." in number and (not unit or unit.isupper()):
        raise ValueError('takes fractions only with a small letter: "1.5m" is 1,500,000')
    power = _POWER[unit.lower()]
    return int(float(number) * 1000**power) if unit.islower() else int(number) * int(1024**power)


def check_options(options: Mapping[str, Any], schema: FlagSchema) -> list[Problem]:
    """What this vLLM version would refuse: unknown options, wrong types, invalid choices.

    The key of a problem is `options.NAME`; its line is `None`, for the caller to fill in.
    """
    problems = []
    seen: dict[str, str] = {}
    for option, value in options.items():
        flag = schema.find(option)
        if flag is None or option != option.lower() or "-" in option:
            close = schema.nearest(option)
            hint = f'; did you mean "{close}"?' if close else ""
            text: str | None = f"vLLM {schema.version} has no such option{hint}"
        elif flag.name in seen:
            text = f'says the same as "{seen[flag.name]}"; keep one of them'
        else:
            seen[flag.name] = option
            text = _fault(flag, value)
        if text:
            problems.append(Problem(f"options.{option}", None, text))
    return problems


def _fault(flag: Flag, value: Any) -> str | None:
    if flag.takes in ("toggle", "switch"):
        return None if isinstance(value, bool) else f"must be true or false, not {shown(value)}"
    if flag.bare and value is True:
        return None
    if flag.many != "no":
        items = value if isinstance(value, list) else [value]
        if not items:
            return "must hold at least one value; leave the option out for none"
        faults = (_item_fault(flag, item) for item in items)
        return next((fault for fault in faults if fault), None)
    return _one_fault(flag, value)


def _item_fault(flag: Flag, item: Any) -> str | None:
    if isinstance(item, dict):  # such as a LoRA module, which vLLM reads as JSON
        return None if flag.takes == "text" else f"must be {_EXPECTED[flag.takes]}, not a table"
    if isinstance(item, str) and item.startswith("-"):
        return f"cannot pass {shown(item)}: vLLM would read it as a flag"
    return _one_fault(flag, item)


_EXPECTED: Mapping[Takes, str] = {
    "int": "a whole number",
    "float": "a number",
    "human-int": 'a whole number, or one with a unit such as "64M"',
    "json": "a table, a list or JSON text",
    "json-or-text": "a table or a text",
    "text": "a text",
}


def _one_fault(flag: Flag, value: Any) -> str | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if flag.takes == "json" or flag.takes == "json-or-text":
        if isinstance(value, (dict, list)):
            return _json_fault(value)
        if flag.takes == "json" and isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            try:
                json.loads(value)
            except ValueError as error:
                return f"is not JSON: {error}; a TOML table works too"
        right = isinstance(value, str) or number
    elif flag.takes == "human-int":
        if flag.auto and value in ("auto", -1, "-1"):
            return None
        right = isinstance(value, (int, str)) and not isinstance(value, bool)
        if right:
            try:
                human_int(value)
            except ValueError as error:
                return f"{error}, not {shown(value)}"
    elif flag.takes == "int":
        right = number and not isinstance(value, float)
    elif flag.takes == "float":
        right = number
    else:
        right = number or isinstance(value, str)
    if not right:
        return f"must be {_EXPECTED[flag.takes]}, not {shown(value)}"
    return _choice_fault(flag, value)


def _json_fault(value: Any) -> str | None:
    try:
        json.dumps(value)
    except TypeError:
        return "holds a date or time, which JSON has not; put it in quotes"
    return None


def _choice_fault(flag: Flag, value: Any) -> str | None:
    text = _text(value)
    if flag.folds_case:
        text = text.lower().replace("-", "_")
    if not flag.choices or text in flag.choices:
        return None
    listed = ", ".join(flag.choices[:8]) + (", …" if len(flag.choices) > 8 else "")
    hint = did_you_mean(text, flag.choices)
    return f"must be one of {listed}, not {shown(value)}{hint}"


def to_argv(options: Mapping[str, Any], schema: FlagSchema | None) -> list[str]:
    """The arguments that say these options to `vllm serve`.

    Tables become JSON, lists several values. Without a schema every option follows the plain
    rule: `max_num_seqs = 8` is `--max-num-seqs 8`, true is `--x`, false is `--no-x`.
    """
    argv: list[str] = []
    for option, value in options.items():
        flag = schema.find(option) if schema else None
        argv += _plain(option, value) if flag is None else _exact(flag, option, value)
    return argv


def _exact(flag: Flag, option: str, value: Any) -> Iterator[str]:
    if flag.takes == "toggle":
        negated = long_flag(option) == flag.negative
        yield flag.long if bool(value) != negated else flag.negative or flag.long
    elif flag.takes == "switch":
        if value:
            yield flag.long
    elif flag.bare and value is True:
        yield flag.long
    elif flag.many == "repeat":
        for item in value if isinstance(value, list) else [value]:
            yield from _said(flag.long, item)
    elif flag.many == "list":
        items = value if isinstance(value, list) else [value]
        if items:
            yield from (flag.long, *map(_text, items))
    else:
        yield from _said(flag.long, value)


def _plain(option: str, value: Any) -> Iterator[str]:
    flag = long_flag(option)
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
    elif isinstance(value, list):
        if value:
            yield from (flag, *map(_text, value))
    else:
        yield from _said(flag, value)


def _said(flag: str, value: Any) -> Iterator[str]:
    """A flag and its value; joined where the value would read as a flag of its own."""
    text = _text(value)
    if text.startswith("-"):
        yield f"{flag}={text}"
    else:
        yield from (flag, text)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value)


OWNED: Mapping[str, str] = {
    "host": "workers listen on 127.0.0.1 only; clients reach [gateway] host",
    "port": "each worker gets a free port; clients reach [gateway] port",
    "uds": "each worker gets a free port on 127.0.0.1; clients reach [gateway]",
    "grpc": "the console speaks HTTP with its workers",
    "headless": "a worker needs its HTTP server",
    "model": 'say it as source = "…" of the model',
    "model_tag": 'say it as source = "…" of the model',
    "served_model_name": "the model is served under its own name and its aliases = […]",
    "api_key": "workers listen on 127.0.0.1 only; clients' keys go to [gateway.keys]",
    "hf_token": 'a secret; say env.HF_TOKEN = { file = "…" } or { env = "…" }',
    "trust_remote_code": "say trust_remote_code = true in the model itself",
    "shutdown_timeout": 'say it as drain_timeout = "…" of the model',
    "device_ids": "say it as devices = […] of the model",
    "config": "write its options here, where they are checked",
    "disable_log_stats": "the console lives on these statistics; leave it out",
    **dict.fromkeys(
        (
            "ssl_keyfile",
            "ssl_certfile",
            "ssl_ca_certs",
            "ssl_cert_reqs",
            "ssl_ciphers",
            "enable_ssl_refresh",
        ),
        "workers listen on 127.0.0.1 only; TLS belongs in front of [gateway]",
    ),
}
"""Options that the console itself sets, and where to say instead what they say."""
