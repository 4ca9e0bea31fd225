"""Tiny models: named by size, made once, never half-made."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.unit.engines.fakes import script, venv
from vllm_console.engines import tiny
from vllm_console.engines.environment import EngineEnvironment, resolve
from vllm_console.engines.tiny import FILES, SIZES, TinySize, tiny_model, tiny_source
from vllm_console.errors import ConsoleError, InvalidInput

MAKES = f'for f in {" ".join(FILES)}; do echo "$4" > "$3/$f"; done'
"""What a fake Python does for `python -I make_tiny.py OUT SHAPE`."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return venv(tmp_path / "env")


def engine(home: Path, does: str = MAKES) -> EngineEnvironment:
    script(home / "bin/python", f"#!/bin/sh\necho made >> {home}/made\n{does}\n")
    return resolve(str(home))


def made(home: Path) -> int:
    return len((home / "made").read_text().splitlines())


def test_only_tiny_sources_name_a_size() -> None:
    assert [tiny_source(f"tiny:{size}") for size in SIZES] == ["small", "medium", "large"]
    for source in ("Qwen/Qwen3-32B", "/models/tiny:small", "tiny", "./tiny"):
        assert tiny_source(source) is None


def test_a_size_there_is_not_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput) as caught:
        tiny_source("tiny:Smal")
    assert str(caught.value) == (
        'source "tiny:Smal": the sizes are small, medium, large; did you mean "tiny:small"?'
    )
    with pytest.raises(InvalidInput, match=r"large$"):
        tiny_source("tiny:")


def test_every_size_is_a_shape_that_vllm_can_divide() -> None:
    for size in SIZES.values():
        assert size.hidden % size.heads == 0
        assert size.heads % size.kv_heads == 0
        assert (size.hidden // size.heads) % 16 == 0
        assert size.max_len == 4096


def test_a_model_is_made_once_beside_the_environments(home: Path, tmp_path: Path) -> None:
    env = engine(home)
    path = tiny_model("small", env, engines_dir=tmp_path / "engines")
    assert path == tmp_path / "engines/models/tiny-small"
    assert '"hidden": 128' in (path / "config.json").read_text()
    assert tiny_model("small", env, engines_dir=tmp_path / "engines") == path
    assert made(home) == 1
    assert [p.name for p in path.parent.iterdir()] == ["tiny-small"]


@pytest.mark.parametrize("name", [*FILES, tiny.RECIPE])
def test_a_model_with_a_part_missing_is_made_again(home: Path, tmp_path: Path, name: str) -> None:
    env = engine(home)
    path = tiny_model("small", env, engines_dir=tmp_path)
    (path / name).unlink()
    assert tiny_model("small", env, engines_dir=tmp_path) == path
    assert (path / name).exists()
    assert made(home) == 2
    assert [p.name for p in path.parent.iterdir()] == ["tiny-small"]


def test_a_model_of_another_shape_is_replaced(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = engine(home)
    path = tiny_model("small", env, engines_dir=tmp_path)
    wider = TinySize(hidden=256, layers=2, heads=4, kv_heads=2, intermediate=512)
    monkeypatch.setitem(SIZES, "small", wider)
    tiny_model("small", env, engines_dir=tmp_path)
    assert '"hidden": 256' in (path / "config.json").read_text()


def test_a_failure_is_one_line_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    env = engine(home, 'echo Traceback >&2; echo "ModuleNotFoundError: numpy" >&2; exit 1')
    with pytest.raises(ConsoleError) as caught:
        tiny_model("small", env, engines_dir=tmp_path)
    assert str(caught.value).endswith("cannot make a tiny model: ModuleNotFoundError: numpy")
    assert list((tmp_path / "models").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConsoleError, match=r"cannot make the model tiny:small in .*: Not a dir"):
        tiny_model("small", engine(home), engines_dir=tmp_path / "file")


def test_what_a_killed_process_left_is_swept_away(home: Path, tmp_path: Path) -> None:
    gone = tmp_path / "models" / ".tiny-small.4194999.x.partial"
    busy = tmp_path / "models" / ".tiny-small.1.x.partial"
    for partial in (gone, busy):
        partial.mkdir(parents=True)
    tiny_model("small", engine(home), engines_dir=tmp_path)
    assert not gone.exists()
    assert busy.exists()


def test_two_at_once_agree(home: Path, tmp_path: Path) -> None:
    waits = f"for i in $(seq 500); do [ $(wc -l < {home}/made) = 2 ] && break; sleep 0.02; done"
    env = engine(home, f"{MAKES}\n{waits}")
    paths: list[tuple[Path, int]] = []

    def make() -> None:
        path = tiny_model("small", env, engines_dir=tmp_path)
        paths.append((path, path.stat().st_ino))

    both = [threading.Thread(target=make) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(20)
    assert made(home) == 2
    assert [path for path, _ in paths] == [tmp_path / "models/tiny-small"] * 2
    assert paths[0] == paths[1]  # the directory of whoever was first; none displaced it
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["tiny-small"]
