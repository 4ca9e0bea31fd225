"""The screen's tests draw in colour whatever the environment says, and may be coroutines."""

from __future__ import annotations

import asyncio
import inspect
import os

import pytest

# Textual reads it when it is imported.
os.environ.pop("NO_COLOR", None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test to its end."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True
