"""Secrets of a worker's environment: named in fleet.toml, read only when a worker starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from vllm_console.errors import InvalidInput


class Secret(BaseModel):
    """Where a secret lies. Holds the reference alone, so printing or storing it shows no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: str | None = None
    """A file whose content is the value; relative to the fleet file."""
    env: str | None = None
    """A variable of the console's own environment."""

    @model_validator(mode="after")
    def _one_source(self) -> Secret:
        if bool(self.file) == bool(self.env):
            raise ValueError('takes either { file = "…" } or { env = "…" }')
        return self

    def __str__(self) -> str:
        kind, name = ("file", self.file) if self.file else ("env", self.env)
        return f'{{ {kind} = "{name}" }}'


def resolve_env(
    env: Mapping[str, str | Secret], base: Path, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables with every secret in place; relative secret files lie under `base`.

    A file's trailing white space is not part of the secret. Raises `InvalidInput` for a secret
    that is missing or empty; the message names the reference, never a value.
    """
    return {
        key: read_secret(f"env.{key}", value, base, environ) if isinstance(value, Secret) else value
        for key, value in env.items()
    }


def read_secret(
    key: str, secret: Secret, base: Path, environ: Mapping[str, str] = os.environ
) -> str:
    """The value of the secret that stands at `key`; raises as `resolve_env` does."""
    if secret.env:
        value = environ.get(secret.env, "")
        if not value:
            raise InvalidInput(
                f"{key}: the variable {secret.env} is not set; export it, "
                'or name a file: { file = "…" }'
            )
        return value
    path = base / Path(secret.file or "").expanduser()
    try:
        value = path.read_text(encoding="utf-8").rstrip()
    except OSError as error:
        raise InvalidInput(
            f"{key}: cannot read {path}: {error.strerror}; put the secret there, "
            'or name a variable: { env = "…" }'
        ) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{key}: {path} is not text") from None
    if not value:
        raise InvalidInput(f"{key}: {path} is empty; put the secret there")
    if "\0" in value:
        raise InvalidInput(f"{key}: {path} holds a NUL byte, which no variable can")
    return value


_SECRET_WORDS = frozenset({"SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY"})
_SECRET_ENDINGS = frozenset({"TOKEN", "KEY", "PAT"})
_REFERENCE_ENDINGS = frozenset({"FILE", "PATH", "DIR", "URL", "NAME", "ID", "TYPE"})
_TOKEN_SHAPE = re.compile(
    r"(hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[bp]-|nvapi-|eyJhbGci)[\w.-]{16,}"
    r"|(?<![\w-])vc-[\w-]{43}(?![\w-])|AKIA[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


def names_a_secret(name: str) -> bool:
    """Whether a variable of this name carries a secret (HF_TOKEN, WANDB_API_KEY, DB_PASSWORD).

    A name of where one lies (HF_TOKEN_PATH) or of a count (MAX_TOKENS) does not.
    """
    words = [word for word in re.split(r"[_\W\d]+", name.upper()) if word]
    if not words or words[-1] in _REFERENCE_ENDINGS:
        return False
    return words[-1] in _SECRET_ENDINGS or not _SECRET_WORDS.isdisjoint(words)


def is_token_shaped(value: str) -> bool:
    """Whether a text has the shape of a well-known kind of token or private key."""
    return _TOKEN_SHAPE.search(value) is not None
