"""Which revision of a model a configuration is: numbers that only grow, every one kept."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vllm_console.control.numbered import now_iso
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.revision import fingerprint
from vllm_console.history.database import Database
from vllm_console.history.records import Revision, add_revisions, read_revisions

__all__ = ["Revision", "Revisions", "WantedModels", "write_atomic"]


class Revisions:
    """Keeps every configuration of every model; the same one keeps its number.

    `former` is the revisions.json that older versions kept: it is taken into the database, once,
    and removed when it is safe there.
    """

    def __init__(
        self,
        database: Database,
        former: Path | None = None,
        clock: Callable[[], str] = now_iso,
    ) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, list[Revision]] = {}
        try:
            with database.reading() as connection:
                self._known = read_revisions(connection)
        except (OSError, sqlite3.Error):
            self._known = {}  # no file yet, or one that cannot be read: numbering starts again
        if former is not None:
            self._take_in(former)
        database.seed(lambda connection: add_revisions(connection, self._copy()))

    def number(self, config: ModelConfig) -> int:
        """The revision of this configuration, 1 for a model's first; new ones are written down."""
        mark = fingerprint(config)
        kept = self._known.setdefault(config.name, [])
        for revision in kept:
            if revision.fingerprint == mark:
                return revision.number
        number = kept[-1].number + 1 if kept else 1
        new = Revision(number, mark, self._clock(), config.model_dump(mode="json"))
        kept.append(new)
        self._database.write(lambda connection: add_revisions(connection, {config.name: [new]}))
        return number

    def config(self, model: str, number: int) -> ModelConfig | None:
        """The configuration of a revision; `None` if it is not known, or of another version."""
        for revision in self.of(model):
            if revision.number == number:
                try:
                    return ModelConfig.model_validate(revision.config)
                except ValueError:
                    return None
        return None

    def of(self, model: str) -> list[Revision]:
        """Every revision of a model, oldest first."""
        return list(self._known.get(model, ()))

    def _copy(self) -> dict[str, list[Revision]]:
        return {model: list(kept) for model, kept in list(self._known.items())}

    def _take_in(self, former: Path) -> None:
        taken: dict[str, list[Revision]] = {}
        try:
            for model, entries in json.loads(former.read_text(encoding="utf-8")).items():
                if model not in self._known:
                    taken[str(model)] = [_former(*entry) for entry in enumerate(entries, 1)]
        except OSError:
            return
        except (ValueError, AttributeError, TypeError, KeyError):
            taken = {}  # damaged by a crash: numbering starts again
        self._known.update(taken)
        self._database.write(
            lambda connection: add_revisions(connection, taken),
            partial(former.unlink, missing_ok=True),
        )


def _former(number: int, entry: Any) -> Revision:
    """One entry of revisions.json; raises `KeyError` or `TypeError` where a part is missing."""
    return Revision(number, str(entry["fingerprint"]), str(entry["at"]), dict(entry["config"]))


class WantedModels:
    """How many workers each model shall have, kept so that a restarted daemon goes on with it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, int] | None:
        """Workers wanted by model, or `None` after a clean `down` (then autostart decides)."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(m): int(n) for m, n in data.items()}
        except (OSError, ValueError, AttributeError, TypeError, OverflowError):
            return None

    def write(self, wanted: dict[str, int]) -> None:
        """Note what is wanted now."""
        write_atomic(self._path, json.dumps(wanted))

    def clear(self) -> None:
        """Forget it: the fleet was taken down on purpose."""
        with contextlib.suppress(OSError):  # a disk turned read-only must not keep the fleet up
            self._path.unlink()


def write_atomic(path: Path, text: str) -> None:
    """Replace a small state file in one step; a disk that is full leaves the old one."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.chmod(partial, 0o600)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
