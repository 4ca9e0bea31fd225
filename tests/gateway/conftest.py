"""Deadlines are looked at often, so that a test of one takes no longer than the deadline."""

from __future__ import annotations

import pytest

from vllm_console.gateway import serving


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SWEEP_S", 0.02)
