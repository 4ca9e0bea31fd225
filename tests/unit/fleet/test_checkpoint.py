"""Model directories and hub caches, whole and damaged, read without loading them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_console.fleet.checkpoint import (
    NOTHING_KNOWN,
    hub_cache,
    local_checkpoint,
    read_checkpoint,
    safetensors_fault,
)

CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}


def safetensors(path: Path, data: int = 8) -> Path:
    """A file of one tensor of `data` bytes."""
    entry = {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(data))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model."""
    home = tmp_path / "model"
    home.mkdir()
    (home / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    safetensors(home / "model.safetensors")
    return home


def test_a_whole_model_has_a_configuration_and_no_fault(model: Path) -> None:
    found = local_checkpoint(model)
    assert found.config == CONFIG
    assert found.files == frozenset({"config.json", "model.safetensors"})
    assert (found.config_fault, found.has_weights, found.broken) == (None, True, None)


def test_a_configuration_that_is_no_json_is_told_with_the_place(model: Path) -> None:
    (model / "config.json").write_text('{"a": ', encoding="utf-8")
    fault = local_checkpoint(model).config_fault
    assert fault is not None
    assert fault.startswith("config.json is not valid JSON: Expecting value: line 1")
    (model / "config.json").write_text("[]", encoding="utf-8")
    assert local_checkpoint(model).config_fault == "config.json is no JSON object"


@pytest.mark.parametrize("name", ["model.bin", "original/consolidated.00.pth"])
def test_weights_of_any_kind_and_one_level_down_count(model: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    assert not local_checkpoint(model).has_weights
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"x")
    assert local_checkpoint(model).has_weights


def test_every_cut_of_a_weight_file_is_seen_by_its_header(model: Path) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    assert safetensors_fault(path) is None
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert safetensors_fault(path), size
    path.write_bytes(whole[:-3])
    size = len(whole)
    told = f"model.safetensors is cut short: {size - 3} of {size} bytes"
    assert local_checkpoint(model).broken == told
    path.write_bytes(whole[:20])
    told = f"model.safetensors is cut short: it is 20 bytes, its header alone {size - 8}"
    assert local_checkpoint(model).broken == told


def test_a_pointer_in_place_of_weights_is_told_as_such(model: Path) -> None:
    pointer = "version https://git-lfs.example/spec/v1\noid sha256:0\nsize 8\n"
    (model / "model.safetensors").write_text(pointer, encoding="utf-8")
    told = local_checkpoint(model).broken
    assert told is not None
    assert told.startswith("model.safetensors is a Git LFS pointer")


def test_a_weight_file_that_is_understood_differently_is_left_to_vllm(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes((4).to_bytes(8, "little") + b"nope")
    assert safetensors_fault(path) is None
    path.write_bytes((2).to_bytes(8, "little") + b"[]")
    assert safetensors_fault(path) is None


def test_only_files_that_the_index_names_are_read(model: Path) -> None:
    (model / "other.safetensors").write_bytes(b"short")
    assert local_checkpoint(model).broken == (
        "other.safetensors is 5 bytes long, too short for a header"
    )
    index = {"weight_map": {"w": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert local_checkpoint(model).broken is None


def test_a_hub_s_cache_gives_the_configuration_of_its_revision(tmp_path: Path) -> None:
    home = tmp_path / "models--org--name"
    for commit, length in (("c0ffee", 1), ("decaf", 2)):
        snapshot = home / "snapshots" / commit
        snapshot.mkdir(parents=True)
        text = json.dumps({"max_position_embeddings": length})
        (snapshot / "config.json").write_text(text, encoding="utf-8")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("c0ffee", encoding="utf-8")
    env = {"HF_HUB_CACHE": str(tmp_path)}
    found = read_checkpoint("org/name", {}, env)
    assert (found.config, found.files) == ({"max_position_embeddings": 1}, None)
    assert read_checkpoint("org/name", {"revision": "decaf"}, env).config == {
        "max_position_embeddings": 2
    }
    assert read_checkpoint("org/name", {"revision": "gone"}, env) == NOTHING_KNOWN
    assert read_checkpoint("org/name", {}, {**env, "VLLM_USE_MODELSCOPE": "1"}) == NOTHING_KNOWN
    assert read_checkpoint("../x/name", {}, env) == NOTHING_KNOWN
    assert read_checkpoint("s3://org/name", {}, env) == NOTHING_KNOWN


def test_a_model_that_is_not_cached_and_may_not_be_fetched_is_missing(tmp_path: Path) -> None:
    env = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    assert "HF_HUB_OFFLINE" in (read_checkpoint("org/name", {}, env).missing or "")
    assert read_checkpoint("org/name", {}, {**env, "HF_HUB_OFFLINE": "0"}).missing is None
    assert read_checkpoint("org/name", {"download_dir": "/d"}, env).missing is None
    assert read_checkpoint("s3://org/name", {}, env).missing is None
    assert read_checkpoint("gpt2", {}, env).missing is None
    (tmp_path / "models--org--name").mkdir()
    assert read_checkpoint("org/name", {}, env).missing is None


@pytest.mark.parametrize(
    ("env", "directory"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/huggingface/hub"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
    ],
)
def test_the_hub_s_cache_lies_where_huggingface_hub_looks(
    env: dict[str, str], directory: str
) -> None:
    assert hub_cache(env) == Path(directory)
