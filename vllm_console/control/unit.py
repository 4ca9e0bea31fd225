"""The systemd unit that starts a fleet at boot, as text."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from vllm_console.errors import InvalidInput
from vllm_console.fleet.find import Place
from vllm_console.fleet.model import Fleet
from vllm_console.fleet.secrets import Secret

KEPT = (
    *("PATH", "VLLM_CONSOLE_ENGINES", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "CUDA_HOME", "LD_LIBRARY_PATH"),
)
"""Variables that say where things lie; no other of the caller's is written into a file."""
_MORE_THAN_DRAIN_S = 60
"""Seconds beyond the longest drain in which workers end or are killed."""


def unit_name(fleet: str) -> str:
    """The file name of a fleet's unit."""
    return f"vllm-console-{re.sub(r'[^A-Za-z0-9:_.-]', '-', fleet)}.service"


def unit(
    place: Place,
    fleet: Fleet,
    program: Sequence[str],
    *,
    user: str | None,
    environ: Mapping[str, str],
    sets: Sequence[str] = (),
) -> str:
    """The unit's text. `program` starts vllm-console; `user` runs a system unit (`None`: `--user`).

    `KillMode=process` and `Restart=on-failure`: a daemon that dies leaves its workers serving, and
    the next one adopts them; `Delegate=yes` lets each have a cgroup. systemd runs ExecStop after an
    orderly end alone (systemd.service(5)).
    Raises `InvalidInput` for a path that no line of a unit can hold.
    """
    where = ["--fleet", str(place.fleet_file), "--state-dir", str(place.state_dir)]
    where += [word for pair in sets for word in ("--set", pair)]
    name = unit_name(fleet.name)
    longest = max((m.drain_timeout_s for m in fleet.models.values()), default=0.0)
    patience = math.ceil(longest) + _MORE_THAN_DRAIN_S
    stop = [*program, "down", "--timeout", str(patience), *where]
    kept = {key: environ[key] for key in KEPT if environ.get(key)}
    control = "systemctl" if user is not None else "systemctl --user"
    lines = [
        *_installing([*program, "systemd", *where], name, user is None),
        f"# A new daemon without stopping a model: {control} kill -s KILL --kill-who=main {name}",
        "",
        "[Unit]",
        f"Description=vLLM fleet {_specifiers(fleet.name)}",
        *(("Wants=network-online.target", "After=network-online.target") if user else ()),
        "StartLimitIntervalSec=300",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=exec",
        *((f"User={user}",) if user else ()),
        *(f"Environment={_quoted(_specifiers(f'{key}={value}'))}" for key, value in kept.items()),
        *_secrets(fleet),
        f"ExecStart={command([*program, 'up', *where])}",
        f"ExecStop=-{command(stop)}",
        f"TimeoutStopSec={patience + 30}",
        "KillMode=process",
        "Delegate=yes",
        "Restart=on-failure",
        "RestartSec=2",
        "OOMPolicy=continue",
        "LimitNOFILE=65536",
        "TasksMax=infinity",
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if user else 'default.target'}",
    ]
    for line in lines:
        if not line.isprintable():
            raise InvalidInput(
                f"{line.partition('=')[0]}= would hold a line break or another control character: "
                "give the file, directory or variable a plain name"
            )
    return "\n".join(lines) + "\n"


def command(argv: Sequence[str]) -> str:
    """A command line by the quoting rules of systemd.service(5), "Command lines"."""
    program, *words = (_specifiers(word) for word in argv)
    return " ".join([_quoted(program), *(_quoted(word.replace("$", "$$")) for word in words)])


def _installing(printing: Sequence[str], name: str, for_user: bool) -> list[str]:
    scope = "--user" if for_user else "--system"
    prints = shlex.join([*printing, scope])
    if for_user:
        folder = "~/.config/systemd/user"
        first = f"mkdir -p {folder} && {prints} > {folder}/{name}"
        second = f"loginctl enable-linger && systemctl --user enable --now {name}"
    else:
        first = f"{prints} | sudo tee /etc/systemd/system/{name}"
        second = f"sudo systemctl enable --now {name}"
    return ["# Install:", f"#   {first}", f"#   {second}"]


def _secrets(fleet: Fleet) -> list[str]:
    """A place for the variables that hold secrets, which no unit may."""
    models = fleet.models.values()
    values = [
        *(value for model in models for value in (*model.env.values(), model.api_key)),
        *fleet.gateway.keys.values(),
    ]
    needed = {v.env: None for v in values if isinstance(v, Secret) and v.env}
    if not needed:
        return []
    names = ", ".join(needed)
    return [f"# Secrets it needs ({names}): put them in a file of mode 0600, name it here", _FILE]


_FILE = "# EnvironmentFile=/path/to/secrets.env"


def _specifiers(text: str) -> str:
    """`%` starts a specifier in nearly every setting (systemd.unit(5))."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """A word in the quotes it needs (systemd.syntax(7), "Quoting")."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return word if re.fullmatch(r"[\w@%+=:,./$-]+", word, re.ASCII) else f'"{escaped}"'


def program_of(executable: str) -> list[str]:
    """How a Python starts this console: the program beside it, else the module."""
    beside = Path(executable).with_name("vllm-console")
    return [str(beside)] if beside.is_file() else [executable, "-m", "vllm_console"]
