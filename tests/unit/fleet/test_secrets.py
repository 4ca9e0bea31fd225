"""Secrets are read where they lie, and nowhere shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from vllm_console.errors import InvalidInput
from vllm_console.fleet.load import load_fleet
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.origins import origins
from vllm_console.fleet.revision import fingerprint
from vllm_console.fleet.secrets import (
    Secret,
    is_token_shaped,
    names_a_secret,
    read_secret,
    resolve_env,
)

VALUE = "hf_" + "x" * 30


def test_secrets_come_from_files_and_variables(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{VALUE}\n", encoding="utf-8")
    env: dict[str, str | Secret] = {
        "A": Secret(file="token"),
        "B": Secret(env="MINE"),
        "C": "plain",
    }
    resolved = resolve_env(env, tmp_path, {"MINE": "m"})
    assert resolved == {"A": VALUE, "B": "m", "C": "plain"}


def test_a_secret_file_may_have_an_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(VALUE, encoding="utf-8")
    env = {"A": Secret(file=str(tmp_path / "token"))}
    assert resolve_env(env, Path("/nowhere"), {}) == {"A": VALUE}


@pytest.mark.parametrize("secret", [Secret(file="missing"), Secret(env="UNSET"), Secret(file=".")])
def test_a_missing_secret_is_one_line_that_names_it(tmp_path: Path, secret: Secret) -> None:
    with pytest.raises(InvalidInput) as raised:
        resolve_env({"HF_TOKEN": secret}, tmp_path, {})
    assert str(raised.value).startswith("env.HF_TOKEN: ")
    assert "\n" not in str(raised.value)


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" \n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="is empty"):
        resolve_env({"A": Secret(file="token")}, tmp_path, {})


def test_a_secret_has_exactly_one_place() -> None:
    for wrong in ({}, {"file": "a", "env": "b"}, {"value": "x"}):
        with pytest.raises(ValidationError):
            Secret.model_validate(wrong)


def test_no_form_of_a_model_shows_a_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(VALUE, encoding="utf-8")
    model = ModelConfig(name="m", source="s", env={"HF_TOKEN": Secret(file="token")})
    resolve_env(model.env, tmp_path, {})
    for shown in (repr(model), str(model), model.model_dump_json()):
        assert VALUE not in shown
        assert "token" in shown


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "GH_PAT"]
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert names_a_secret(name)


@pytest.mark.parametrize(
    "name",
    ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "HF_TOKEN_PATH", "MONKEY", "AWS_ACCESS_KEY_ID"],
)
def test_names_that_only_look_alike_are_no_secrets(name: str) -> None:
    assert not names_a_secret(name)


def test_tokens_are_known_by_their_shape() -> None:
    assert is_token_shaped(VALUE)
    assert is_token_shaped("Bearer sk-" + "a" * 20)
    assert is_token_shaped(f"key=vc-{'a-_9' * 10}abc")
    assert not is_token_shaped("hf_transfer")
    assert not is_token_shaped(f"svc-{'a' * 43}")


def test_the_key_of_a_watched_server_is_read_where_it_lies_and_kept_by_reference(
    tmp_path: Path,
) -> None:
    (tmp_path / "key").write_text(f"{VALUE}\n", encoding="utf-8")
    file = tmp_path / "fleet.toml"
    file.write_text(
        '[models.m]\nengine = "attach"\nurl = "http://x:1"\napi_key = { file = "key" }\n'
    )
    fleet = load_fleet(file, environ={})
    model = fleet.models["m"]
    assert model.api_key is not None
    assert read_secret("models.m.api_key", model.api_key, tmp_path) == VALUE
    dumped = model.model_dump(mode="json", exclude_defaults=True)
    assert VALUE not in repr(dumped) + repr(model) + fingerprint(model)
    assert ModelConfig.model_validate(dumped) == model
    assert ("api_key", model.api_key) in [(key, value) for key, value, _ in origins(fleet, "m")]
    with pytest.raises(InvalidInput, match=r"^models\.m\.api_key: the variable K is not set"):
        read_secret("models.m.api_key", Secret(env="K"), tmp_path, {})
