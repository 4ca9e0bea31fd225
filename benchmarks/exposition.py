"""Texts for the scraping benchmarks: a recorded /metrics whose counts go on growing."""

from __future__ import annotations

import gzip
import random
import re
from urllib.parse import parse_qs, urlsplit

from common import ROOT

from vllm_console.telemetry.filtered import filtered_path

DATA = ROOT / "tests" / "unit" / "telemetry" / "data"
_NUMBER = re.compile(rb" ([0-9.e+-]+)$")
_STILL = (b"_created", b"process_", b"python_", b"vllm:kv_cache", b"vllm:cache", b"http_")


def recorded(name: str) -> bytes:
    """One of the texts that real vLLM workers gave."""
    return gzip.decompress((DATA / f"{name}.txt.gz").read_bytes())


def filtered(text: bytes) -> bytes:
    """What a vLLM leaves of a text when our names alone are asked for."""
    path = filtered_path(text)
    assert path is not None
    names = {name.encode() for name in parse_qs(urlsplit(path).query)["name[]"]}
    families = {re.sub(rb"_(bucket|sum)$", b"", name) for name in names}
    return b"".join(
        line
        for line in text.splitlines(keepends=True)
        if (
            line.split(b" ", 3)[2] in families
            if line.startswith(b"#")
            else re.split(rb"[{ ]", line, maxsplit=1)[0] in names
        )
    )


def growing(text: bytes, steps: int, seed: int = 7) -> list[bytes]:
    """`steps` texts of one busy process, a second apart: about a third of the lines differ."""
    rng = random.Random(seed)
    lines = text.split(b"\n")
    texts = []
    for _ in range(steps):
        jump: dict[bytes, tuple[int, int]] = {}
        seen: dict[bytes, int] = {}
        for i, line in enumerate(lines):
            found = _NUMBER.search(line)
            if line.startswith(b"#") or found is None or any(s in line for s in _STILL):
                continue
            name = re.split(rb"[{ ]", line, maxsplit=1)[0]
            family = re.sub(rb"_(bucket|sum|count)$", b"", name)
            value = float(found[1])
            if family != name:
                start, by = jump.setdefault(family, (rng.randrange(8), rng.choice((0, 1, 1, 5))))
                seen[family] = seen.get(family, -1) + 1
                value += by if seen[family] >= start else 0
            elif name.endswith(b"_total"):
                value += rng.randrange(50)
            else:
                value = float(rng.randrange(64))
            lines[i] = line[: found.start(1)] + repr(value).encode()
        texts.append(b"\n".join(lines))
    return texts
