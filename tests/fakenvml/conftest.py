"""One fake driver for the session; each test starts with two idle, healthy GPUs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakenvml.fake import FakeDriver


@pytest.fixture(scope="session")
def compiled_driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    """Compiled once; without a C compiler every test of the fake driver fails."""
    return FakeDriver(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(compiled_driver: FakeDriver) -> Iterator[FakeDriver]:
    """A healthy driver; nothing waits in it when the test is over."""
    compiled_driver.reset()
    yield compiled_driver
    compiled_driver.let_go()
