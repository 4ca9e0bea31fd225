"""Fails when a tracked file holds a path of the machine it was written on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """0 when no tracked text file names this checkout's parent or this user's home."""
    needles = {f"{ROOT.parent}/", f"{Path.home()}/"} - {"//", "/"}
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    found = 0
    for name in filter(None, files):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if any(needle in line for needle in needles):
                print(f"{name}:{number}: a path of this machine", file=sys.stderr)
                found += 1
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
