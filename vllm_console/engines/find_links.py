"""The wheel folders a user has told pip about, which uv, reading no pip settings, would miss."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit


def find_links(
    environ: Mapping[str, str] = os.environ,
    *,
    prefix: str = sys.prefix,
    etc: Path = Path("/etc"),
) -> list[str]:
    """pip's `find-links`: $PIP_FIND_LINKS, else the most specific pip configuration file that sets
    it (https://pip.pypa.io/en/stable/topics/configuration/: environment over site over user over
    global, `[install]` over `[global]`). Files are read here since uv's environments have no pip.
    """
    if environ.get("PIP_FIND_LINKS"):
        return _expanded(environ["PIP_FIND_LINKS"])
    files = [_settings(path) for path in _config_files(environ, Path(prefix), etc)]
    for section in ("install", "global"):
        for settings in files:
            for key in ("find-links", "find_links"):
                if settings.has_option(section, key):
                    return _expanded(settings.get(section, key))
    return []


def holds_wheel(links: Sequence[str], project: str, version: str) -> bool:
    """Whether a local folder among `links` has a wheel of this project in this exact version."""
    start = f"{project}-{version}-".lower()
    for link in links:
        parts = urlsplit(link)
        folder = Path(unquote(parts.path)) if parts.scheme == "file" else Path(link)
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # a page on the network, or nothing: uv reports it if it matters
        if any(name.lower().startswith(start) and name.endswith(".whl") for name in names):
            return True
    return False


def _settings(path: Path) -> configparser.RawConfigParser:
    """A configuration file; one that is missing or broken says nothing."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return configparser.RawConfigParser()
    return parser


def _expanded(value: str) -> list[str]:
    return [os.path.expanduser(link) for link in value.split()]


def _config_files(environ: Mapping[str, str], prefix: Path, etc: Path) -> list[Path]:
    """pip's configuration files, the one that wins first."""
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return []
    home = Path(environ.get("HOME") or Path.home())
    shared = environ.get("XDG_CONFIG_DIRS") or str(etc / "xdg")
    files = [prefix / "pip.conf"]
    if own and os.path.exists(own):  # pip then leaves the user's own files aside
        files.insert(0, Path(own))
    else:
        settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        files += [settings / "pip" / "pip.conf", home / ".pip" / "pip.conf"]
    files.append(etc / "pip.conf")
    files.extend(Path(folder) / "pip" / "pip.conf" for folder in reversed(shared.split(":")))
    return files
