"""Which CUDA an engine environment's torch is built for, from package records, without import."""

from __future__ import annotations

import re

from vllm_console.engines.environment import EngineEnvironment

_TORCH = re.compile(r"torch-[^-+]+\+cu(?P<major>\d{2})(?P<minor>\d+)\.dist-info")
_RUNTIME = re.compile(
    r"nvidia_cuda_runtime(_cu\d+)?-(?P<major>\d+)\.(?P<minor>\d+)[^-]*\.dist-info"
)


def torch_cuda(engine: EngineEnvironment) -> tuple[int, int] | None:
    """(major, minor) of the CUDA that torch needs; `None` without a CUDA build of torch.

    From torch's version suffix (+cu128 is 12.8); wheels of the public index have none, so else
    from the CUDA runtime package they depend on.
    """
    for home in dict.fromkeys(
        (engine.python.parent.parent, engine.program.resolve().parent.parent)
    ):
        for pattern, names in ((_TORCH, "torch-*"), (_RUNTIME, "nvidia_cuda_runtime*")):
            for record in sorted(home.glob(f"lib*/python3*/*-packages/{names}.dist-info")):
                match = pattern.fullmatch(record.name)
                if match is not None:
                    return int(match["major"]), int(match["minor"])
    return None
