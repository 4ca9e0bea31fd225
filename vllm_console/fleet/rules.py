"""What must hold between the values of a fleet, beyond the type of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from vllm_console.fleet.key_names import KEY_NAME_FORM, is_key_name
from vllm_console.fleet.model import Gateway, ModelConfig, is_loopback
from vllm_console.fleet.options import OWNED
from vllm_console.fleet.secrets import is_token_shaped, names_a_secret

Path = tuple[str | int, ...]
Finding = tuple[Path, str]
"""Where (keys from the section or the model down) and what."""

_REFERENCE = 'a secret does not stand here: say { file = "…" } or { env = "…" }'
_OWNED_ENV = {
    "VLLM_API_KEY": "workers listen on 127.0.0.1 only; clients' keys go to [gateway.keys]",
    "CUDA_VISIBLE_DEVICES": "set by the console; say devices = […] of the model",
}
_PARALLEL = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
    "data_parallel_size",
)


def model_findings(model: ModelConfig) -> Iterator[Finding]:
    """What does not hold within one model."""
    yield from _source(model)
    yield from _devices(model)
    if model.scale and model.scale.min > model.scale.max:
        text = f"is more than max = {model.scale.max}"
        yield ("scale", "min"), text
    yield from _options(model.options)
    yield from _env(model.env)


def _source(model: ModelConfig) -> Iterator[Finding]:
    if not model.attached:
        if not model.source:
            yield (), 'says no source; add source = "…", a hub id or a local directory'
        if model.url is not None:
            yield ("url",), 'is only for engine = "attach"; leave it out, or watch with that engine'
        if model.api_key is not None:
            yield (
                ("api_key",),
                'is only for engine = "attach"; keys of clients go to [gateway.keys]',
            )
    elif model.url is None:
        yield ("engine",), '"attach" needs to know the worker: add url = "http://HOST:PORT"'
    else:
        fault = _url_fault(model.url)
        if fault:
            yield ("url",), fault


def _url_fault(url: str) -> str | None:
    example = "http://10.0.0.7:8000"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"is no address: {error}; write one such as {example}"
    if parts.username or parts.password:
        return f"holds a password; write the address alone, such as {example}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f'is no address: "{url}"; write one such as {example}'
    if parts.path.rstrip("/") or parts.query or parts.fragment:
        return f"takes scheme, host and port alone: {parts.scheme}://{parts.netloc}"
    return None


def _devices(model: ModelConfig) -> Iterator[Finding]:
    gpus: int | None = model.gpus if isinstance(model.gpus, int) else None
    if model.devices is not None:
        if not model.devices:
            yield ("devices",), 'names no GPU; leave it out, or say gpus = "auto"'
            return
        if len(set(model.devices)) < len(model.devices):
            twice = next(d for d in model.devices if model.devices.count(d) > 1)
            yield ("devices",), f"names GPU {twice} twice"
            return
        if gpus is not None and gpus != len(model.devices):
            yield ("devices",), f"names {len(model.devices)} but gpus = {gpus}; keep one of them"
            return
        gpus = len(model.devices)
    if not gpus:
        return
    said = {key: model.options[key] for key in _PARALLEL if key in model.options}
    local = model.options.get("data_parallel_size_local")
    if local is not None:
        said["data_parallel_size"] = local
    if not all(type(size) is int for size in said.values()):
        return  # the engine's own check says which type it takes
    needs = 1
    for size in said.values():
        needs *= size
    if needs == gpus or type(model.options.get("nnodes")) is int:
        return
    who = "devices" if model.devices is not None else "gpus"
    if said:
        product = " × ".join(f"{key} {size}" for key, size in said.items())
        yield (
            ("options", next(iter(said))),
            f"does not match {who}: {product} runs on {needs} GPUs, models.{model.name} has {gpus}",
        )
    else:
        yield (
            (who,),
            f"gives models.{model.name} {gpus} GPUs but its engine uses 1; "
            f"add options.tensor_parallel_size = {gpus}",
        )


def _options(options: Mapping[str, Any]) -> Iterator[Finding]:
    for option, value in options.items():
        snake = option.lstrip("-").replace("-", "_").lower()
        instead = OWNED.get(snake.removeprefix("no_"))
        if instead:
            yield ("options", option), f"belongs to the console: {instead}"
        elif option != snake:
            yield ("options", option), f'is not in snake_case; write "{snake}"'
        elif _holds_secret(value):
            yield ("options", option), "would put a secret on a command line; use the model's env"


def _holds_secret(value: Any) -> bool:
    """Tokens by their shape anywhere; inside tables also by name (a `…_token` may be special)."""
    if isinstance(value, str):
        return is_token_shaped(value)
    if isinstance(value, list):
        return any(_holds_secret(item) for item in value)
    if isinstance(value, dict):
        return any(
            _holds_secret(item)
            or (
                isinstance(item, str)
                and bool(item)
                and names_a_secret(str(key))
                and not str(key).lower().endswith("token")
            )
            for key, item in value.items()
        )
    return False


def _env(env: Mapping[str, Any]) -> Iterator[Finding]:
    for variable, value in env.items():
        if variable in _OWNED_ENV:
            yield ("env", variable), f"belongs to the console: {_OWNED_ENV[variable]}"
        elif not re.fullmatch(r"[^=\0\s]+", variable):
            yield ("env", variable), "is no name of a variable"
        elif isinstance(value, str):
            if value and (names_a_secret(variable) or is_token_shaped(value)):
                yield ("env", variable), _REFERENCE
            elif "\0" in value:
                yield ("env", variable), "holds a NUL byte, which no variable can"


def gateway_findings(gateway: Gateway) -> Iterator[Finding]:
    """What does not hold within the gateway."""
    for name in gateway.keys:
        if not is_key_name(name):
            yield ("keys", name), f"cannot be the name of a key: take {KEY_NAME_FORM}"
    if gateway.tls_cert is not None and gateway.tls_key is None:
        yield ("tls_cert",), 'needs its key too: add tls_key = "…"'
    elif gateway.tls_key is not None and gateway.tls_cert is None:
        yield ("tls_key",), 'needs its certificate too: add tls_cert = "…"'
    for index, origin in enumerate(gateway.cors):
        if origin != "*" and not re.fullmatch(r"https?://[^\s/?#]+", origin):
            yield (
                ("cors", index),
                f'"{origin}" is no origin; write scheme and host, such as https://chat.example',
            )


def fleet_findings(models: Mapping[str, ModelConfig], gateway: Gateway) -> Iterator[Finding]:
    """What does not hold between models, and between them and the gateway; full paths."""
    aliases: dict[str, str] = {}
    addresses = {("localhost", gateway.port): "the gateway"}
    for name, model in models.items():
        for index, alias in enumerate(model.aliases):
            where: Path = ("models", name, "aliases", index)
            if alias in models:
                whose = "this model's own name" if alias == name else f"the name of models.{alias}"
                yield where, f'"{alias}" is {whose}'
            elif alias in aliases:
                yield where, f'"{alias}" is already an alias of models.{aliases[alias]}'
            else:
                aliases[alias] = name
        if model.url and model.attached and not _url_fault(model.url):
            address = _address(model.url)
            if address in addresses:
                yield (
                    ("models", name, "url"),
                    f"port {address[1]} is already taken by {addresses[address]}",
                )
            else:
                addresses[address] = f"models.{name}"


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return ("localhost" if is_loopback(host) else host, port)
