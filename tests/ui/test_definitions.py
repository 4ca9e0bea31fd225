"""What the numbers of a panel are: every block has its rows, and `?` twice shows them."""

from __future__ import annotations

import pytest

from tests.ui.playing import Stage
from tests.ui.test_blocks import SNAPSHOT, view
from vllm_console.insight.definitions import DEFINITIONS
from vllm_console.ui.blocks import BLOCKS, definitions
from vllm_console.ui.panels import load_panels
from vllm_console.ui.rows import length, text_of
from vllm_console.ui.screens.dashboard import Dashboard
from vllm_console.ui.screens.definitions import Definitions

PLAIN = {"config", "kv-cache", "requests", "processes", "gateway", "fleet", "finish", "ttft"}
"""Blocks whose words say all there is to say: a state, a name, one value over time."""


def test_every_block_that_derives_a_value_says_how() -> None:
    shown = {placed.block for spec in load_panels() for placed in spec.blocks}
    assert shown - PLAIN <= set(DEFINITIONS)
    assert set(DEFINITIONS) <= set(BLOCKS)


def test_each_definition_has_a_name_and_a_formula_once_a_block() -> None:
    for block, rows in DEFINITIONS.items():
        assert rows, block
        assert len({row.name for row in rows}) == len(rows), block
        assert all(row.name and row.formula for row in rows), block


@pytest.mark.parametrize(
    "block", ["models", "optimization", "memory", "advanced", "monitoring", "dashboard",
              "throughput", "latency", "efficiency"],
)  # fmt: skip
def test_a_definition_has_the_name_that_the_block_writes(block: str) -> None:
    drawn = "\n".join(
        text_of(BLOCKS[block].draw(view(f"model/{model.name}"), width, 20))
        for model in SNAPSHOT.models
        for width in (35, 76)
    )
    assert [row.name for row in DEFINITIONS[block] if row.name not in drawn] == []


def test_definitions_stand_beside_their_names_block_by_block() -> None:
    text = text_of(definitions.draw(["models", "efficiency", "models"], 80))
    assert text.count("models") == 1
    assert "\n\nefficiency\noverall        busy × batch fill × served\n" in text
    assert text.startswith("models\n")


@pytest.mark.parametrize("width", [20, 34, 38, 60, 120])
def test_definitions_are_never_wider_than_their_box(width: int) -> None:
    rows = definitions.draw(DEFINITIONS, width)
    assert max(length(row) for row in rows) <= max(width, 17)


def test_a_panel_without_a_derived_value_says_so() -> None:
    assert "nothing in this panel" in text_of(definitions.draw(["config"], 60))


async def test_help_goes_on_to_the_definitions_of_the_panel_that_has_the_focus() -> None:
    stage = Stage()
    async with stage.app.run_test(size=(160, 48)) as pilot:
        await stage.shown(pilot)
        await pilot.press("2", "question_mark")
        await pilot.pause()
        assert "? what performance shows" in stage.text()
        await pilot.press("question_mark")
        await pilot.pause()
        await pilot.pause()
        assert isinstance(stage.app.screen, Definitions)
        text = stage.text()
        assert "what performance shows" in text
        assert "requests finished in the last 60 s" in text
        assert "busy × batch fill × served" in text
        for _ in range(60):
            await pilot.press("j")
        await pilot.pause()
        assert "asked in this order" in stage.text()
        await pilot.press("escape")
        await pilot.pause()
        assert isinstance(stage.app.screen, Dashboard)


async def test_definitions_scroll_where_there_is_little_room() -> None:
    stage = Stage()
    async with stage.app.run_test(size=(80, 24)) as pilot:
        await stage.shown(pilot)
        await pilot.press("question_mark", "question_mark")
        await pilot.pause()
        await pilot.pause()
        first = stage.text()
        assert "workers that take requests" in first
        for _ in range(12):
            await pilot.press("j")
        await pilot.pause()
        assert stage.text() != first
        assert "workers that take requests" not in stage.text()
