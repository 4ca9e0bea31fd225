"""The CUDA of an environment's torch, from package records that are laid out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.engines.fakes import managed
from vllm_console.engines.cuda import torch_cuda
from vllm_console.engines.environment import environments


@pytest.mark.parametrize(
    ("records", "cuda"),
    [
        (["torch-2.9.0+cu128"], (12, 8)),
        (["torch-2.9.0+cu130"], (13, 0)),
        (["torch-2.9.0", "nvidia_cuda_runtime_cu12-12.8.90"], (12, 8)),
        (["torch-2.13.0", "nvidia_cuda_runtime-13.0.48"], (13, 0)),
        (["torch-2.9.0+cu129", "nvidia_cuda_runtime_cu12-12.8.90"], (12, 9)),
        (["torch-2.13.0+cpu"], None),
        (["torch-2.9.0"], None),
    ],
)
def test_torch_tells_its_cuda(
    tmp_path: Path, records: list[str], cuda: tuple[int, int] | None
) -> None:
    managed(tmp_path, "x", "vllm-0.32.0", *records)
    [engine] = environments(tmp_path)
    assert torch_cuda(engine) == cuda
