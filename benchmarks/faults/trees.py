"""Fleets of fake `vllm serve` trees: many of them, failing in ways vLLM seldom does."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.site import Site
from tests.faults.fake_engine import make_fake_engine


def model(name: str, *keys: str, **options: object) -> str:
    """One `[models.NAME]` table; `options` of the fake engine, `keys` of the model itself."""
    lines = [f"[models.{name}]", 'source = "fake/model"', *keys]
    if options:
        lines += [f"[models.{name}.options]", *(f"{k} = {_toml(v)}" for k, v in options.items())]
    return "\n".join([*lines, ""])


def names(count: int) -> list[str]:
    """Names for `count` models; the worker of each is NAME-1."""
    return [f"m{number}" for number in range(1, count + 1)]


def fake_fleet(root: Path, *models: str, drain: str = "5s") -> Site:
    """A fleet of these models over the fake engine."""
    engine = make_fake_engine(root / "engine")
    head = "[gateway]\nenabled = false\n"
    head += f'[defaults]\nengine = "{engine}"\ndrain_timeout = "{drain}"\n'
    return Site(root, head + "".join(models), env={"XDG_CACHE_HOME": str(root / "cache")})


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
