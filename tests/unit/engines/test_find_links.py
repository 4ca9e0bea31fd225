"""pip's find-links, read as pip reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_console.engines.find_links import find_links, holds_wheel


class Settings:
    """A machine's pip settings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {
            "HOME": str(root / "home"),
            "XDG_CONFIG_DIRS": f"{root}/xdg",
        }

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def links(self) -> list[str]:
        return find_links(self.environ, prefix=str(self.root / "site"), etc=self.root / "etc")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def test_without_settings_there_are_no_links(settings: Settings) -> None:
    assert settings.links == []


def test_files_win_in_pips_order_and_the_variable_over_all(settings: Settings) -> None:
    for name, link in (
        ("xdg/pip/pip.conf", "/1"),
        ("etc/pip.conf", "/2"),
        ("home/.pip/pip.conf", "/3"),
        ("home/.config/pip/pip.conf", "/4"),
        ("site/pip.conf", "/5"),
    ):
        settings.write(name, f"[global]\nfind-links = {link}\n")
        assert settings.links == [link]
    settings.environ["PIP_FIND_LINKS"] = "/6 https://wheels.example/simple"
    assert settings.links == ["/6", "https://wheels.example/simple"]
    settings.environ["PIP_FIND_LINKS"] = ""
    assert settings.links == ["/5"]


def test_the_install_section_of_any_file_wins_over_a_global_one(settings: Settings) -> None:
    settings.write("etc/pip.conf", "[install]\nfind_links =\n    /a\n    ~/b\n")
    settings.write("site/pip.conf", "[global]\nfind-links = /c\n")
    assert settings.links == ["/a", os.path.expanduser("~/b")]


def test_a_configuration_file_that_is_named_replaces_the_users_own(settings: Settings) -> None:
    settings.write("home/.config/pip/pip.conf", "[global]\nfind-links = /own\n")
    settings.write("etc/pip.conf", "[global]\nfind-links = /machine\n")
    named = settings.write("named.conf", "[global]\ntimeout = 60\n")
    settings.environ["PIP_CONFIG_FILE"] = str(named)
    assert settings.links == ["/machine"]
    settings.environ["PIP_CONFIG_FILE"] = os.devnull
    assert settings.links == []


def test_a_broken_file_is_as_good_as_none(settings: Settings) -> None:
    settings.write("site/pip.conf", "find-links = /no-section\n")
    settings.write("home/.pip/pip.conf", "[global]\nfind-links = /here\n")
    assert settings.links == ["/here"]


def test_a_local_folder_holds_a_wheel_of_exactly_that_version(tmp_path: Path) -> None:
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    (tmp_path / "torch-2.14.0.tar.gz").touch()
    for link in (str(tmp_path), f"file://{tmp_path}"):
        assert holds_wheel(["/nowhere", "https://wheels.example", link], "torch", "2.13.0+cpu")
        assert not holds_wheel([link], "torch", "2.13.0")
        assert not holds_wheel([link], "torch", "2.14.0")
