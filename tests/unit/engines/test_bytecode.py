"""How much of an environment is compiled, from a sample."""

from __future__ import annotations

from pathlib import Path

from vllm_console.engines.bytecode import SAMPLE, CompiledShare


def test_the_share_of_compiled_modules_is_measured_and_extrapolated(tmp_path: Path) -> None:
    modules = 4 * SAMPLE
    site = tmp_path / "lib/python3.12/site-packages"
    cache = site / "package" / "__pycache__"
    cache.mkdir(parents=True)
    for number in range(modules):
        (site / "package" / f"m{number:04}.py").touch()
    share = CompiledShare(tmp_path)
    assert share.measure() == (0, modules)
    for number in range(modules // 4):
        (cache / f"m{number:04}.cpython-312.pyc").touch()
    done, total = share.measure()
    assert total == modules
    assert abs(done - modules // 4) <= 0.02 * modules
    for number in range(modules):
        (cache / f"m{number:04}.cpython-312.pyc").touch()
    assert share.measure() == (modules, modules)


def test_an_environment_without_modules_is_no_division_by_zero(tmp_path: Path) -> None:
    assert CompiledShare(tmp_path).measure() == (0, 0)
