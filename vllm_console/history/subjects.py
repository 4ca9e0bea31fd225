"""Whom a question is about: from what a person writes to a subject of the store, and its parts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_console.errors import NotFound

if TYPE_CHECKING:
    from vllm_console.fleet.model import ModelConfig

_GPU_INDEX = re.compile(r"(?:gpu[/:]?)?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a fleet beside what was measured."""

    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Each model's aliases."""
    targets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Each model's targets in seconds, by "ttft", "itl", "e2e"; those it has."""
    gpus: Mapping[int, str] = field(default_factory=dict)
    """UUIDs by index; empty where no daemon tells."""
    alive: bool = False
    """Whether a daemon answers, so that what its events left is so until now."""


def known(
    configs: Iterable[ModelConfig], gpus: Mapping[int, str] | None = None, *, alive: bool = False
) -> Known:
    """What a fleet's configuration says, and the GPUs that its daemon sees."""
    models, targets = {}, {}
    for config in configs:
        models[config.name] = config.aliases
        slo = config.slo
        set_ = {"ttft": slo.ttft_p95_s, "itl": slo.itl_p95_s, "e2e": slo.e2e_p95_s}
        targets[config.name] = {what: s for what, s in set_.items() if s is not None}
    return Known(models, targets, gpus or {}, alive)


def resolve(name: str, subjects: Iterable[str], known: Known) -> str:
    """The subject that a name means: a model, an alias, a worker, "fleet", a GPU's index or UUID.

    What comes first in that list wins; "model/X", "worker/X" and "gpu/X" are never ambiguous.
    "gateway" is all that the gateway counted, "gateway/X" what it did of model, alias or key X.
    Raises `NotFound` with the nearest name.
    """
    there = set(subjects) | {f"model/{model}" for model in known.models}
    aliases = {alias: model for model, names in known.models.items() for alias in names}
    for subject in (
        name if name.startswith(("model/", "worker/", "gpu/", "gateway/")) else "",
        f"model/{name}",
        f"model/{aliases.get(name, '')}",
        f"worker/{name}",
        *_of_gateway(name, aliases),
    ):
        if subject in there:
            return subject
    if name == "fleet":
        return name
    if name.partition("/")[0] == "gateway":
        return _not_of_gateway(name, there)
    return _gpu(name, there, known) or _unknown(name, there, aliases)


def model_of(subject: str) -> str | None:
    """The model of a model's or a worker's subject, by the gateway too; `None` for the others."""
    kind, _, name = subject.removeprefix("gateway/").partition("/")
    if kind == "worker":
        return name.rpartition("-")[0]
    return name if kind == "model" else None


def workers_of(subject: str, subjects: Iterable[str]) -> list[str]:
    """The workers among the subjects that belong to one, in the order of their numbers."""
    pattern = worker_names(subject)
    found = [s for s in subjects if s.startswith("worker/") and pattern.fullmatch(s[7:])]
    return sorted(found, key=lambda s: (s.rpartition("-")[0], len(s), s))


def worker_names(subject: str) -> re.Pattern[str]:
    """What the ids of a subject's workers look like."""
    kind, _, name = subject.removeprefix("gateway/").partition("/")
    escaped = re.escape(name)
    return re.compile({"model": rf"{escaped}-\d+", "worker": escaped}.get(kind, r".+-\d+"))


def concerned_names(subject: str) -> re.Pattern[str]:
    """What the subjects of events look like that may explain a subject's numbers."""
    model = model_of(subject)
    if model is None:
        return re.compile(".*")
    return re.compile(rf"{re.escape(model)}|{worker_names(subject).pattern}")


def _of_gateway(name: str, aliases: Mapping[str, str]) -> tuple[str, ...]:
    """The subjects of the gateway that a name may mean, the likeliest first."""
    head, _, rest = name.partition("/")
    if head != "gateway":
        return ()
    if not rest:
        return (name,)
    return f"gateway/model/{aliases.get(rest, rest)}", f"gateway/key/{rest}"


def _not_of_gateway(name: str, there: set[str]) -> str:
    known = sorted(s.split("/", 2)[2] for s in there if s.startswith("gateway/"))
    near = difflib.get_close_matches(name.rpartition("/")[2], known, n=1)
    hint = f'did you mean "gateway/{near[0]}"?' if near else ""
    if not near:
        listed = ", ".join(f"gateway/{each}" for each in known[:5])
        hint = f"there are {listed}" if known else "it has served no request yet"
    raise NotFound(f'nothing is known of "{name}"; {hint}')


def _gpu(name: str, there: set[str], known: Known) -> str | None:
    """A GPU by its index, or by its UUID or how that begins."""
    if index := _GPU_INDEX.fullmatch(name):
        uuid = known.gpus.get(int(index.group(1)))
        return None if uuid is None else f"gpu/{uuid}"
    begin = f"gpu/{name.removeprefix('gpu/')}".lower()
    found = [subject for subject in there if subject.lower().startswith(begin)]
    return found[0] if len(found) == 1 and begin != "gpu/" else None


def _unknown(name: str, there: set[str], aliases: Mapping[str, str]) -> str:
    plain = sorted(s.partition("/")[2] for s in there if s.count("/") == 1) + sorted(aliases)
    if _GPU_INDEX.fullmatch(name):
        uuids = [s for s in sorted(there) if s.startswith("gpu/")]
        hint = f"there are {', '.join(uuids) or 'none'} (an index needs a daemon that runs)"
    else:
        near = difflib.get_close_matches(name.rpartition("/")[2], [*plain, "fleet"], n=1)
        models = [s[6:] for s in sorted(there) if s.startswith("model/")]
        listed = ", ".join([*models, "fleet"])
        hint = f'did you mean "{near[0]}"?' if near else f"there are {listed}"
    raise NotFound(f'nothing is known of "{name}"; {hint}')
