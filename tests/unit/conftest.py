"""What unit tests share: databases over a temporary file, closed at the end of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_console.history.database import Database

Open = Callable[..., Database]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Open]:
    """Makes started databases over history.sqlite; a second one is what the next daemon opens."""
    made: list[Database] = []

    def opened(tell: Any = None, *, start: bool = True, **options: Any) -> Database:
        for earlier in made:
            earlier.close()
        made.append(Database(tmp_path / "history.sqlite", **{"retry_s": 0.02, **options}))
        if start:
            made[-1].start(tell)
        return made[-1]

    yield opened
    for each in made:
        each.close()
