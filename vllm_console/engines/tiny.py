"""Tiny chat models with random weights, made on the spot: a real vLLM to look at, no download."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from vllm_console.engines.environment import EngineEnvironment
from vllm_console.engines.environment import engines_dir as default_engines_dir
from vllm_console.errors import ConsoleError, InvalidInput

MAKE = Path(__file__).with_name("inside") / "make_tiny.py"
"""The script the engine's own Python runs."""

RECIPE = "recipe.json"
"""Written last into a model's directory: what it was made from."""

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True, slots=True)
class TinySize:
    """A shape of the Qwen2 architecture. Depth is what makes it slow, since each layer of a tiny
    model costs a CPU about the same; width is what makes it big on disk."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int = 2048
    """Upper bound; the tokenizer stops when its corpus has no more pairs."""
    max_len: int = 4096
    seed: int = 0


SIZES: dict[str, TinySize] = {
    "small": TinySize(hidden=128, layers=2, heads=4, kv_heads=2, intermediate=256),
    "medium": TinySize(hidden=192, layers=12, heads=4, kv_heads=2, intermediate=512),
    "large": TinySize(hidden=256, layers=48, heads=4, kv_heads=2, intermediate=768),
}
"""About 3300, 860 and 190 tokens/s at 8 requests at once, one OpenMP thread, AVX-512."""


def tiny_source(source: str) -> str | None:
    """The size that "tiny:SIZE" names, `None` for any other source.

    Raises `InvalidInput` for a size there is not.
    """
    kind, colon, size = source.partition(":")
    if kind != "tiny" or not colon:
        return None
    if size not in SIZES:
        near = difflib.get_close_matches(size.lower(), SIZES, n=1, cutoff=0.4)
        hint = f'; did you mean "tiny:{near[0]}"?' if near else ""
        raise InvalidInput(f'source "{source}": the sizes are {", ".join(SIZES)}{hint}')
    return size


def tiny_home(size: str, *, engines_dir: Path | None = None) -> Path:
    """Where the tiny model of a size lies, or will once it is made."""
    folder = engines_dir if engines_dir is not None else default_engines_dir()
    return folder / "models" / f"tiny-{size}"


def tiny_model(size: str, env: EngineEnvironment, *, engines_dir: Path | None = None) -> Path:
    """The directory of the tiny model of a size (a key of `SIZES`), made once, in about a second.

    Raises `ConsoleError` when it cannot be made or written.
    """
    tiny_source(f"tiny:{size}")
    home = tiny_home(size, engines_dir=engines_dir)
    folder = home.parent
    shape = asdict(SIZES[size])
    script = hashlib.sha256(MAKE.read_bytes()).hexdigest()
    recipe = {"source": f"tiny:{size}", "shape": shape, "script_sha256": script}
    if _made_from(home) == recipe:
        return home
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f".tiny-{size}.*.partial"):
            if _abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        partial = Path(
            tempfile.mkdtemp(prefix=f".tiny-{size}.{os.getpid()}.", suffix=".partial", dir=folder)
        )
        try:
            _make(partial, shape, env)
            partial.chmod(0o755)
            (partial / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
            _publish(partial, home, recipe)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ConsoleError(
            f"cannot make the model tiny:{size} in {folder}: {error.strerror}"
        ) from None
    return home


def _made_from(home: Path) -> object:
    """The recipe of a complete model, `None` when a part is missing."""
    try:
        recipe = json.loads((home / RECIPE).read_bytes())
    except (OSError, ValueError):
        return None
    return recipe if all((home / name).is_file() for name in FILES) else None


def _abandoned(partial: Path) -> bool:
    """Whether the process that was making a model there is gone."""
    try:
        os.kill(int(partial.name.split(".")[2]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, IndexError, OSError):
        return False
    return False


def _make(out: Path, shape: dict[str, int], env: EngineEnvironment) -> None:
    done = subprocess.run(
        [str(env.python), "-I", str(MAKE), str(out), json.dumps(shape)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit code {done.returncode}").rsplit("\n", 1)[-1]
        raise ConsoleError(f"engine {env.name} ({env.python}) cannot make a tiny model: {said}")


def _publish(partial: Path, home: Path, recipe: object) -> None:
    """Put a finished model in its place; when another process was first with the same, keep its."""
    try:
        os.rename(partial, home)
    except OSError:
        if _made_from(home) == recipe:
            return
        outdated = partial.with_suffix(".outdated.partial")
        os.rename(home, outdated)
        with contextlib.suppress(OSError):  # whoever came first made the same
            os.rename(partial, home)
        shutil.rmtree(outdated, ignore_errors=True)
