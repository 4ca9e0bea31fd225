"""Which revision of a model a configuration is: numbers that only grow, kept in the state."""

from __future__ import annotations

import json
import os
from pathlib import Path


class Revisions:
    """Numbers configurations by their fingerprint; the same configuration keeps its number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[str]] = {}
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            self._known = {str(m): [str(f) for f in prints] for m, prints in data.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            pass  # no file yet, or one damaged by a crash: numbering starts again

    def number(self, model: str, fingerprint: str) -> int:
        """The revision of this configuration, 1 for a model's first; new ones are written down."""
        prints = self._known.setdefault(model, [])
        if fingerprint in prints:
            return prints.index(fingerprint) + 1
        prints.append(fingerprint)
        write_atomic(self._path, json.dumps(self._known))
        return len(prints)


class WantedModels:
    """How many workers each model shall have, kept so that a restarted daemon goes on with it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, int] | None:
        """Workers wanted by model, or `None` after a clean `down` (then autostart decides)."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(m): int(n) for m, n in data.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return None

    def write(self, wanted: dict[str, int]) -> None:
        """Note what is wanted now."""
        write_atomic(self._path, json.dumps(wanted))

    def clear(self) -> None:
        """Forget it: the fleet was taken down on purpose."""
        self._path.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Replace a small state file in one step; a disk that is full leaves the old one."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.chmod(partial, 0o600)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
