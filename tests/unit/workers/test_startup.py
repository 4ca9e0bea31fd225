"""Startup stages and engine facts, from logs that real vLLM wrote."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_console.snapshot import Engine
from vllm_console.workers.startup import STAGES, Startup

DATA = Path(__file__).with_name("data")
EAGER = (DATA / "startup_eager.log").read_bytes()
COMPILE = (DATA / "startup_compile.log").read_bytes()

GPU = b"""\
(APIServer pid=1) INFO 11-21 09:00:01 [api_utils.py:286] non-default args: {'model': 'm', \
'tensor_parallel_size': 2, 'gpu_memory_utilization': 0.85, 'max_num_seqs': 256, 'block_size': 16}
(APIServer pid=1) INFO 11-21 09:00:09 [model.py:733] Resolved architecture: Qwen3ForCausalLM
(APIServer pid=1) INFO 11-21 09:00:10 [scheduler.py:229] Chunked prefill is enabled with \
max_num_batched_tokens=8192.
(EngineCore pid=2) INFO 11-21 09:00:20 [core.py:133] Initializing a V1 LLM engine (v0.17.0) with \
config: model='m', speculative_config=SpeculativeConfig(method='eagle3', model='d', \
num_spec_tokens=3), dtype=torch.bfloat16, max_seq_len=40960, tensor_parallel_size=2, \
pipeline_parallel_size=1, data_parallel_size=1, quantization=fp8, enforce_eager=False, \
kv_cache_dtype=fp8, enable_prefix_caching=True, enable_chunked_prefill=True
(Worker_TP0 pid=3) INFO 11-21 09:00:30 [gpu_model_runner.py:4879] Starting to load model m...
(Worker_TP0 pid=3) INFO 11-21 09:00:31 [cuda.py:482] Using FLASH_ATTN attention backend out of \
potential backends: ['FLASH_ATTN', 'FLASHINFER'].
(Worker_TP0 pid=3) INFO 11-21 09:00:50 [gpu_model_runner.py:4879] Model loading took 15.5 GiB \
memory and 19.65 seconds
(Worker_TP1 pid=4) INFO 11-21 09:00:50 [gpu_model_runner.py:4879] Model loading took 15.5 GiB \
memory and 19.70 seconds
(Worker_TP0 pid=3) INFO 11-21 09:00:55 [backends.py:1069] Using cache directory: \
cache/torch_compile_cache/70b/rank_0_0/backbone for vLLM's torch.compile
(Worker_TP0 pid=3) INFO 11-21 09:01:25 [gpu_worker.py:298] Available KV cache memory: 40.25 GiB
(EngineCore pid=2) INFO 11-21 09:01:25 [kv_cache_utils.py:1087] GPU KV cache size: 659,120 tokens
(EngineCore pid=2) INFO 11-21 09:01:25 [kv_cache_utils.py:1091] Maximum concurrency for 40,960 \
tokens per request: 16.09x
"""


def started(log: bytes) -> tuple[Startup, list[str]]:
    """The state after a log fed line by line, and the stages on the way."""
    startup = Startup()
    stages = [startup.stage]
    for line in log.splitlines(keepends=True):
        startup.feed(line)
        if startup.stage != stages[-1]:
            stages.append(startup.stage)
    return startup, stages


def test_an_eager_start_skips_compilation_and_graphs() -> None:
    startup, stages = started(EAGER)
    assert stages == ["import", "config", "weights", "kv-cache", "serving"]
    assert startup.serving
    assert startup.engine == Engine(
        version="0.32.0",
        architecture="Qwen2ForCausalLM",
        dtype="bfloat16",
        max_model_len=2048,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        data_parallel_size=1,
        kv_cache_tokens=131072,
        kv_cache_bytes=64 << 20,
        kv_cache_dtype="auto",
        max_concurrency=64.0,
        prefix_caching=True,
        chunked_prefill=True,
        enforce_eager=True,
        load_format="auto",
        compilation="dynamo trace once",
        sleep_mode=False,
        lora=False,
    )


def test_a_compiled_start_passes_compilation() -> None:
    startup, stages = started(COMPILE)
    assert stages == ["import", "config", "weights", "compile", "kv-cache", "serving"]
    assert startup.engine.enforce_eager is False
    assert startup.engine.kv_cache_tokens == 2_097_152
    assert startup.engine.kv_cache_bytes == 1 << 30


def test_a_step_limit_that_nobody_set_is_the_highest_compile_range() -> None:
    line = (
        "(EngineCore pid=7) INFO 11-21 05:19:30 [core.py:133] Initializing a V1 LLM engine "
        "(v0.32.0) with config: model='m', dtype=torch.bfloat16, max_seq_len=2048, "
        "compilation_config={'compile_sizes': None, 'compile_ranges_endpoints': [512, 2048], "
        "'inductor_passes': {}}\n"
    )
    startup = Startup()
    startup.feed(line.encode())
    assert startup.engine.max_num_batched_tokens == 2048
    told = Startup()
    told.feed(b"Chunked prefill is enabled with max_num_batched_tokens=8192.\n" + line.encode())
    assert told.engine.max_num_batched_tokens == 8192
    unset = Startup()
    unset.feed(line.replace("[512, 2048]", "[]").encode())
    assert unset.engine.max_num_batched_tokens is None


def test_a_start_on_two_gpus_sums_the_weights_of_its_ranks() -> None:
    startup, stages = started(GPU)
    assert stages == ["import", "config", "weights", "compile", "kv-cache"]
    engine = startup.engine
    assert engine.weights_bytes == 31 << 30
    assert engine.kv_cache_bytes == int(40.25 * (1 << 30))
    assert (engine.kv_cache_tokens, engine.max_concurrency) == (659_120, 16.09)
    assert (engine.quantization, engine.kv_cache_dtype) == ("fp8", "fp8")
    assert (engine.attention_backend, engine.speculative) == ("FLASH_ATTN", "eagle3 3")
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (256, 8192)
    assert (engine.gpu_memory_utilization, engine.block_size) == (0.85, 16)
    assert (engine.version, engine.tensor_parallel_size) == ("0.17.0", 2)


def test_what_is_captured_and_compiled_is_said_in_words() -> None:
    startup = Startup()
    startup.feed(
        b"(EngineCore pid=7) INFO 11-21 05:19:30 [core.py:133] Initializing a V1 LLM engine "
        b"(v0.17.0) with config: model='m', dtype=torch.bfloat16, load_format=auto, "
        b"compilation_config={'mode': <CompilationMode.VLLM_COMPILE: 3>, "
        b"'cudagraph_mode': <CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>}\n"
        b"(Worker_TP0 pid=3) INFO 11-21 05:20:01 [gpu_model_runner.py:6582] Graph capturing "
        b"finished in 12 secs, took 0.50 GiB\n"
        b"(Worker_TP1 pid=4) INFO 11-21 05:20:01 [gpu_model_runner.py:6582] Graph capturing "
        b"finished in 12 secs, took 0.25 GiB\n"
        b"INFO 11-21 05:20:02 [cuda.py:446] Using AttentionBackendEnum.FLASHINFER backend.\n"
        b"INFO 11-21 05:20:03 [executor.py:1] # GPU blocks: 25760, # CPU blocks: 0\n"
    )
    engine = startup.engine
    assert (engine.compilation, engine.cuda_graphs) == ("vllm compile", "full and piecewise")
    assert engine.graphs_bytes == 3 << 28
    assert (engine.attention_backend, engine.kv_cache_blocks) == ("FLASHINFER", 25_760)
    assert engine.load_format == "auto"


def test_adapters_and_sleep_are_told_by_the_arguments() -> None:
    startup = Startup()
    startup.feed(
        b"non-default args: {'model': 'm', 'enable_lora': True, 'enable_sleep_mode': True}\n"
    )
    assert (startup.engine.lora, startup.engine.sleep_mode) == (True, True)
    assert Startup().engine.lora is None


def test_a_progress_bar_counts_before_its_line_ends() -> None:
    startup = Startup()
    assert startup.feed(b"\rLoading safetensors checkpoint shards:  21% Completed | 3/14 [00:06<")
    assert (startup.stage, startup.detail) == ("weights", "checkpoint shards 3 of 14")
    assert not startup.feed(b"00:24,  2.2s/it]\rLoading safetensors checkpoint shards:  29% Com")
    assert startup.feed(b"pleted | 4/14 [00:08<00:22,  2.2s/it]")
    assert startup.detail == "checkpoint shards 4 of 14"


def test_graph_capture_counts_through_its_bar_and_colours() -> None:
    startup = Startup()
    bar = "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  51%|█████     | 34/67 [00:01<"
    startup.feed(f"\x1b[36m(Worker_TP0 pid=3)\x1b[0;0m {bar}".encode())
    assert (startup.stage, startup.detail) == ("graphs", "CUDA graph 34 of 67")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, len(EAGER) - 1), max_size=30, unique=True))
def test_the_pieces_a_log_comes_in_do_not_matter(cuts: list[int]) -> None:
    whole, _ = started(EAGER)
    pieces = Startup()
    edges = [0, *sorted(cuts), len(EAGER)]
    for first, last in itertools.pairwise(edges):
        pieces.feed(EAGER[first:last])
    assert (pieces.engine, pieces.stage) == (whole.engine, whole.stage)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2_000))
def test_no_bytes_upset_it(data: bytes) -> None:
    startup = Startup()
    startup.feed(data)
    assert startup.stage in STAGES


def test_without_earlier_starts_progress_goes_by_stages() -> None:
    startup = Startup()
    seen = [startup.progress(0, None)]
    for line in COMPILE.splitlines(keepends=True):
        startup.feed(line)
        seen.append(startup.progress(1.0, None))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 0.98)


def test_with_earlier_starts_progress_goes_by_time_and_never_back() -> None:
    startup = Startup()
    assert startup.progress(5, 20) == pytest.approx(0.25)
    assert startup.progress(10, 40) == pytest.approx(0.25)
    assert startup.progress(60, 20) == 0.99
    assert startup.progress(1, 20) == 0.99
