"""The commands that make, change and end clients' keys, for the daemon and without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vllm_console.errors import InvalidInput
from vllm_console.history.account_rows import TERMS, Terms
from vllm_console.history.accounts import Accounts

Answer = dict[str, Any]
Command = Callable[[Accounts, Mapping[str, Any], float], Answer]

_LIMITS = ("rpm", "tpm", "concurrency", "expires")
_HASH_BYTES = 32


def create(accounts: Accounts, args: Mapping[str, Any], at: float) -> Answer:
    """Add a key by the hash of its secret, in hexadecimal; the secret itself is never sent."""
    text, shown = args.get("hash"), args.get("shown", "")
    try:
        secret = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        secret = b""
    if len(secret) != _HASH_BYTES or not isinstance(shown, str):
        raise InvalidInput("hash: takes the SHA-256 of a secret, 64 hexadecimal digits")
    terms = Terms(**terms_of(args))
    name = _name(args)
    return {"ok": True, "name": name, "id": accounts.create(name, secret, shown, terms, at)}


def edit(accounts: Accounts, args: Mapping[str, Any], at: float) -> Answer:
    """Change terms of a key; those that are not given stay."""
    name = _name(args)
    accounts.edit(name, terms_of(args))
    return {"ok": True, "name": name}


def revoke(accounts: Accounts, args: Mapping[str, Any], at: float) -> Answer:
    """End a key."""
    name = _name(args)
    accounts.revoke(name, at)
    return {"ok": True, "name": name}


COMMANDS: dict[str, Command] = {"key-create": create, "key-edit": edit, "key-revoke": revoke}
"""By the verb of the control API. They block while they write: not for an event loop's thread."""


def terms_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """The terms among the arguments of a command; raises `InvalidInput` for one of a wrong type."""
    terms = {name: args[name] for name in TERMS if name in args}
    if (models := terms.get("models")) is not None:
        if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
            raise InvalidInput("models: takes a list of names")
        terms["models"] = tuple(models)
    for name in _LIMITS:
        value = terms.get(name)
        if value is not None and not (type(value) is int and value > 0):
            raise InvalidInput(f"{name}: takes a whole number from 1")
    budget = terms.get("budget")
    if budget is not None and not (type(budget) in (int, float) and budget > 0):
        raise InvalidInput("budget: takes an amount of $ above 0")
    if terms.get("max_class", 0) not in (0, 1, 2):
        raise InvalidInput("max_class: takes 0 (high), 1 (normal) or 2 (low)")
    return terms


def _name(args: Mapping[str, Any]) -> str:
    name = args.get("name")
    if not isinstance(name, str):
        raise InvalidInput("the command needs a name")
    return name
