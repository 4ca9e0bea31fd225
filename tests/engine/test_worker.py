"""One worker over real vLLM: its stages, its readiness, one answer, and a clean end."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vllm_console import http1, snapshot
from vllm_console.launchers.local import LocalLauncher
from vllm_console.workers.launch import LaunchSpec
from vllm_console.workers.shim import process
from vllm_console.workers.sockets import free_port
from vllm_console.workers.startup import STAGES
from vllm_console.workers.states import State
from vllm_console.workers.worker import Worker

if TYPE_CHECKING:
    from vllm_console.engines.environment import EngineEnvironment

pytestmark = pytest.mark.engine

OPTIONS = (
    *("--max-model-len", "2048", "--max-num-seqs", "4", "--enforce-eager"),
    *("--kv-cache-memory-bytes", "32M", "--distributed-executor-backend", "uni"),
    *("--disable-uvicorn-access-log", "--shutdown-timeout", "10"),
)
ENVIRONMENT = {
    "PATH": os.defpath,
    "HOME": os.path.expanduser("~"),
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def test_a_worker_starts_answers_and_leaves_nothing(
    engine_environment: EngineEnvironment, tiny_small: Path, tmp_path: Path
) -> None:
    launcher = LocalLauncher(tmp_path)
    stages: list[str] = []

    async def prepare() -> tuple[LaunchSpec, dict[str, str]]:
        port = free_port()
        program = str(engine_environment.program)
        where = ("--host", "127.0.0.1", "--port", str(port))
        argv = (program, "serve", str(tiny_small), "--served-model-name", "tiny", *where, *OPTIONS)
        spec = LaunchSpec("tiny-1", "tiny", 1, argv, port, ("tiny",), start_timeout_s=180)
        return spec, ENVIRONMENT

    def note(_: Worker, view: snapshot.Worker) -> None:
        if view.stage and view.stage not in stages:
            stages.append(view.stage)

    async def scenario() -> None:
        http = http1.Pool()
        worker = Worker(
            "tiny-1",
            "tiny",
            prepare=prepare,
            launcher=launcher,
            http=http,
            on_change=note,
            node="here",
        )
        try:
            worker.load()
            await worker.wait({State.READY, State.FAILED, State.BACKOFF}, 180)
            view = worker.view
            assert view.state == State.READY, view.failure
            assert [stage for stage in STAGES if stage in stages] == stages
            assert {"import", "config", "serving"} <= set(stages)
            engine = worker.engine
            assert engine.architecture == "Qwen2ForCausalLM"
            assert (engine.max_model_len, engine.max_num_seqs) == (2048, 4)
            assert (engine.enforce_eager, engine.tensor_parallel_size) == (True, 1)
            assert engine.kv_cache_tokens is not None
            assert engine.kv_cache_bytes == 32 << 20
            members = [(pid, process(pid)) for pid in worker.tree()]
            assert len(members) >= 2
            body = {
                "model": "tiny",
                "max_tokens": 8,
                "messages": [{"role": "user", "content": "one two three"}],
            }
            answer = await http.request(
                "POST",
                f"{view.url}/v1/chat/completions",
                headers=[("Content-Type", "application/json")],
                body=json.dumps(body).encode(),
                timeout=60,
            )
            assert answer.status == 200
            assert 1 <= json.loads(answer.body)["usage"]["completion_tokens"] <= 8
            await worker.unload()
            assert worker.state is State.STOPPED
            for pid, seen in members:
                now = process(pid)
                assert now is None or seen is None or now[0] != seen[0]
        finally:
            await worker.unload()
            await worker.close()
            await http.close()

    asyncio.run(scenario())
