"""Panel files: the packaged ones hold, and a mistake is told with its file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ui.scripted import LabFleet, played
from vllm_console.errors import InvalidInput
from vllm_console.ui import blocks
from vllm_console.ui.blocks import BLOCKS
from vllm_console.ui.panels import LIMITS, NAMES, load_panels, packaged, read_panel
from vllm_console.ui.rows import text_of
from vllm_console.ui.stacking import draw_panel
from vllm_console.ui.view import Limit, View


def written(folder: Path, text: str, name: str = "engines") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_the_packaged_panels_have_no_mistake_and_show_every_block() -> None:
    specs = load_panels()
    assert [spec.name for spec in specs] == list(NAMES)
    assert [spec.problem for spec in specs] == [None] * 4
    assert {placed.block for spec in specs for placed in spec.blocks} == set(BLOCKS)
    assert specs[0].limits["kv_cache_usage"] == Limit(0.85, 0.95)
    assert sorted(path.stem for path in packaged().glob("*.toml")) == sorted(NAMES)


def test_a_users_file_replaces_ours_and_the_others_stay(tmp_path: Path) -> None:
    written(tmp_path, 'title = "mine"\n[[blocks]]\nblock = "memory"\nheight = 4\n')
    specs = load_panels(tmp_path)
    assert specs[0].title == "mine"
    assert [placed.block for placed in specs[0].blocks] == ["memory"]
    assert specs[1:] == load_panels()[1:]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere is not a folder"):
        load_panels(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('title = "x"\n\n[[blocks]]\nblock = "modles"\n', 4, 'did you mean "models"?'),
        ('[[blocks]]\nblock = "steps"\nheight = "auto"\n', 3, "steps has no height of its own"),
        ('[[blocks]]\nblock = "memory"\nheight = 4\nhight = 4\n', 4, 'no key "hight"; did'),
        ('[[blocks]]\nblock = "memory"\nheight = -4\n', 3, 'a number of rows, "auto" or "1fr"'),
        ('[[blocks]]\nblock = "models"\nat = ["row", "tab"]\n', 3, 'no layout "tab"'),
        ('[[blocks]]\nblock = "models"\nkeep = 12\n', 3, "keep must be a whole number from 0 to 9"),
        ('[[blocks]]\nblock = "models"\nmax = "some"\n', 3, "max must be"),
        ('[[blocks]]\nblock = "models"\n[[blocks]]\nheight = 3\n', 3, "a block has no name"),
        ('hue = "pink"\n', 1, 'no hue "pink"; one of engines'),
        ("[limits.waiting]\nwarn = true\n", 2, "limits.waiting.warn must be a number"),
        ("[limits.waiting]\nworn = 3\n", 2, 'no key "worn"; did you mean "warn"?'),
        ("[limits.wating]\nwarn = 3\n", 1, 'no limit "wating"; did you mean "waiting"?'),
        ('title = "x"\n', None, "it lists no blocks"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_file_the_line_and_the_way_out(
    tmp_path: Path, text: str, line: int | None, message: str
) -> None:
    path = written(tmp_path, text)
    problem = read_panel(path).problem
    assert problem is not None
    assert message in problem
    assert problem.startswith(f"{path}:{line}: " if line else str(path))


def test_every_limit_that_a_block_asks_for_may_be_set_and_no_other() -> None:
    asked: set[str] = set()
    for source in Path(blocks.__file__).parent.parent.rglob("*.py"):
        asked |= set(re.findall(r'\.limit\("([a-z_]+)"\)', source.read_text(encoding="utf-8")))
    assert asked == set(LIMITS)


def test_broken_toml_names_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, 'title = "x"\n[[blocks\n')
    problem = read_panel(path).problem
    assert problem is not None
    assert problem.startswith(f"{path}:2: Expected")


def test_a_mistake_stands_in_its_panels_place(tmp_path: Path) -> None:
    spec = read_panel(written(tmp_path, '[[blocks]]\nblock = "nothing"\n'))
    snapshot, trends = played(LabFleet(), 5)
    text = text_of(draw_panel(spec, View(snapshot, trends, "model/llama-70b"), "row", 60, 20))
    assert "this panel's file has a mistake" in text
    assert 'no block "nothing"' in text.replace("\n", " ")
