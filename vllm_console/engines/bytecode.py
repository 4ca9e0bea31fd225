"""How much of an environment is compiled to bytecode, from a sample of its files."""

from __future__ import annotations

import os
from pathlib import Path

SAMPLE = 500
"""Files looked at; the share is within 2 % of the truth."""


class CompiledShare:
    """Says how many of an environment's modules have bytecode, for a progress bar.

    uv says nothing while it compiles, which is most of an installation. Looking for all of 20000
    files costs 0.4 s of a core, looking for an evenly spread sample 2 ms.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._modules = 0
        self._sample: list[str] = []

    def measure(self) -> tuple[int, int]:
        """(modules with bytecode, modules), the former extrapolated from the sample."""
        if not self._sample:
            self._choose()
        done = sum(map(os.path.exists, self._sample))
        return round(done * self._modules / max(1, len(self._sample))), self._modules

    def _choose(self) -> None:
        compiled = []
        for library in self.home.glob("lib/python3*"):
            tag = library.name.removeprefix("python").replace(".", "")
            for root, _, names in os.walk(library):
                compiled += [
                    os.path.join(root, "__pycache__", f"{name[:-3]}.cpython-{tag}.pyc")
                    for name in names
                    if name.endswith(".py")
                ]
        self._modules = len(compiled)
        self._sample = sorted(compiled)[:: max(1, len(compiled) // SAMPLE)]
