"""Blanks secrets out of text that leaves a worker's log: tokens, keys, passwords."""

from __future__ import annotations

import re

BLANK = "•••"

_NAMES = (
    r"[A-Z0-9_]*(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)"
    r"|(?:[a-z0-9_]*_)?(?:api[-_]?key|auth[-_]?token|access[-_]?token|hf[-_]?token|secret|password)"
)
_VALUE = r"\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^\s,;)}\]]+"
_SECRETS = (
    re.compile(r"()\b(?:hf_|sk-|gh[opsu]_|nvapi-|AKIA)[A-Za-z0-9_-]{6,}"),
    re.compile(r"()(?<![\w-])vc-[A-Za-z0-9_-]{43}(?![\w-])"),
    re.compile(r"(?i)(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?)[^\s'\",}]+"),
    re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"(://[^/\s:@]+:)[^/\s@]+(?=@)"),
    re.compile(rf"(\b(?:{_NAMES})\s*=\s*)(?:{_VALUE})"),
    re.compile(rf"(['\"](?:{_NAMES})['\"]\s*:\s*)(?:{_VALUE})"),
    re.compile(r"(--(?:api-key|hf-token)[= ])\S+"),
)


def redact(text: str) -> str:
    """The text with every secret that its form or its name gives away replaced by `BLANK`."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\1{BLANK}", text)
    return text
