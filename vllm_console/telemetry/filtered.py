"""The path that asks a vLLM for the metrics of our vocabulary alone.

prometheus_client's ASGI application, which vLLM mounts at /metrics/, leaves out what no `name[]`
names. About half of the text remains, and the API server, which does nothing else while it renders,
is done with it sooner. `/metrics` without the slash is another route, which ignores `name[]`; with
several API servers the answer is empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vllm_console.telemetry.metric import wire_names
from vllm_console.telemetry.names import METRICS
from vllm_console.telemetry.sample import Sample

WHOLE_PATH = "/metrics"
_TRIES = 3
_FAMILY = re.compile(rb"^# TYPE (\S+) ", re.MULTILINE)

_NAMES: dict[bytes, tuple[str, ...]] = {
    family: names
    for metric in METRICS
    for source in metric.sources
    for names in [wire_names(metric, source)]
    for family in {source.name.encode(), names[0].encode()}
}
"""Names of the samples that are read, by what a `# TYPE` line may call their family."""


def filtered_path(text: bytes) -> str | None:
    """The path for the families that `text` declares; `None` where it declares none of ours.

    A family is declared from the start of a process on, even while it has no series.

    >>> filtered_path(b"# TYPE vllm:num_requests_running gauge\\n# TYPE up gauge\\n")
    '/metrics/?name[]=vllm:num_requests_running'
    """
    found = dict.fromkeys(_FAMILY.findall(text))
    names = [name for family in found for name in _NAMES.get(family, ())]
    return f"{WHOLE_PATH}/?" + "&".join(f"name[]={name}" for name in names) if names else None


class Filter:
    """Whether one vLLM process is asked for our vocabulary alone, and what to expect of it then.

    It is learnt from a whole text; an answer that lacks a name which the whole text had, or that
    is none, ends it for the life of the process.
    """

    __slots__ = ("_failures", "_names", "_proven", "_usable", "path")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew: another process answers."""
        self.path: str | None = None
        """What to ask for instead of the whole text; `None`: the whole text."""
        self._usable = True
        self._proven = False
        self._failures = 0
        self._names: tuple[frozenset[str], ...] = ()

    def learn(self, text: bytes, sample: Sample) -> None:
        """Takes in a whole text, and what it said."""
        if self._usable and self.path is None:
            self.path = filtered_path(text)
            self._names = tuple(frozenset(part) for part in _parts(sample))

    def accepts(self, sample: Sample) -> bool:
        """Whether a filtered answer has all that the whole text had."""
        pairs = zip(self._names, _parts(sample), strict=True)
        had = all(names <= part.keys() for names, part in pairs)
        self._proven = self._proven or had
        return had

    def give_up(self) -> None:
        """The whole text from now on: it is fine where the filtered answer was odd."""
        self.path = None
        self._usable = False

    def unanswered(self) -> None:
        """No answer came; an unproven filter that caused this `_TRIES` times is given up."""
        if not self._proven:
            self.path = None
            self._failures += 1
            self._usable = self._failures < _TRIES


def _parts(sample: Sample) -> tuple[Mapping[str, object], ...]:
    return sample.counters, sample.gauges, sample.histograms, sample.info
