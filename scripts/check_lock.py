"""Fails when uv.lock names any host but the public Python index and its file host."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PUBLIC = {"https://pypi.org", "https://files.pythonhosted.org"}


def main() -> int:
    """0 when the lock names only the public index."""
    lock = Path(__file__).parent.parent / "uv.lock"
    text = lock.read_text(encoding="utf-8")
    hosts = set(re.findall(r"[a-z]+://[^/\"\s]+", text))
    strange = sorted(hosts - PUBLIC)
    for host in strange:
        print(f"uv.lock names {host}; lock again with only the public index", file=sys.stderr)
    if re.search(r'(?:path|directory|url) = "file:', text):
        strange.append("file:")
        print("uv.lock names a local path; lock again without local indexes", file=sys.stderr)
    return 1 if strange else 0


if __name__ == "__main__":
    raise SystemExit(main())
