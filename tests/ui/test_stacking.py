"""How blocks share a panel: nothing is cut that fits, nothing overflows, the least needed goes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ui.scripted import LabFleet, played
from vllm_console.ui.panels import LAYOUTS, PanelSpec, Placed, load_panels
from vllm_console.ui.rows import length, text_of
from vllm_console.ui.stacking import draw_panel, places
from vllm_console.ui.view import View

SNAPSHOT, TRENDS = played(LabFleet(fourth="failed"))
MANY = played(LabFleet(models=64, gpus=64), 20)
SPECS = load_panels()
VIEW = View(SNAPSHOT, TRENDS, "model/qwen3-32b")


def heights(spec: PanelSpec, layout: str, height: int, view: View = VIEW) -> dict[str, int]:
    return {p.block: p.height for p in places(spec, view, layout, 40, height)}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SPECS),
    st.sampled_from(LAYOUTS),
    st.integers(20, 160),
    st.integers(4, 60),
    st.sampled_from(["model/llama-70b", "worker/qwen3-32b-2", "model/phi-4", None]),
)
def test_no_panel_overflows_at_any_size(
    spec: PanelSpec, layout: str, width: int, height: int, selected: str | None
) -> None:
    rows = draw_panel(spec, View(SNAPSHOT, TRENDS, selected), layout, width, height)
    assert len(rows) <= height
    assert max((length(row) for row in rows), default=0) <= max(width, 34)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SPECS), st.sampled_from(LAYOUTS), st.integers(34, 160), st.integers(8, 60))
def test_no_panel_overflows_with_64_models(
    spec: PanelSpec, layout: str, width: int, height: int
) -> None:
    view = View(*MANY, "model/phi-4-09")
    rows = draw_panel(spec, view, layout, width, height)
    assert len(rows) <= height
    assert max(length(row) for row in rows) <= width


def test_all_eight_gpus_are_seen_in_a_low_panel() -> None:
    text = text_of(draw_panel(SPECS[3], VIEW, "grid", 46, 11))
    assert all(f"\n{n}  " in text or f" {n}  " in text for n in range(8))


def test_the_least_needed_block_goes_first() -> None:
    spec = PanelSpec(
        "x", "x", "engines",
        (Placed("memory", 4, min=4, keep=1), Placed("efficiency", 3, min=3, keep=9),
         Placed("batch", 2, min=2, keep=5)),
    )  # fmt: skip
    assert list(heights(spec, "row", 20)) == ["memory", "efficiency", "batch"]
    assert list(heights(spec, "row", 6)) == ["efficiency", "batch"]
    assert list(heights(spec, "row", 4)) == ["efficiency"]
    assert heights(spec, "row", 1) == {}


def test_blank_rows_go_before_a_block_does() -> None:
    spec = PanelSpec("x", "x", "engines", (Placed("memory", 4, min=4), Placed("batch", 2, min=2)))
    assert [p.y for p in places(spec, VIEW, "row", 40, 7)] == [0, 5]
    assert [p.y for p in places(spec, VIEW, "row", 40, 6)] == [0, 4]


def test_a_tall_panel_drops_a_block_before_its_blank_rows() -> None:
    blocks = (Placed("memory", 15, min=15, keep=9), Placed("batch", 10, min=10, keep=1))
    spec = PanelSpec("x", "x", "engines", blocks)
    assert [p.y for p in places(spec, VIEW, "row", 40, 26)] == [0, 16]
    assert [p.block for p in places(spec, VIEW, "row", 40, 25)] == ["memory"]


def test_shares_stop_at_their_most_except_in_a_zoom() -> None:
    spec = PanelSpec("x", "x", "engines", (Placed("kv-cache", None, 1, min=4, max=10),))
    assert heights(spec, "row", 40) == {"kv-cache": 10}
    assert heights(spec, "zoom", 40) == {"kv-cache": 40}


def test_a_block_is_shown_only_at_its_layouts_and_with_room() -> None:
    spec = PanelSpec(
        "x", "x", "engines",
        (Placed("batch", 2, min=2, at=("row",)), Placed("memory", 4, min=4, room=30)),
    )  # fmt: skip
    assert list(heights(spec, "row", 29)) == ["batch"]
    assert list(heights(spec, "row", 30)) == ["batch", "memory"]
    assert list(heights(spec, "grid", 30)) == ["memory"]


@pytest.mark.parametrize(("width", "columns"), [(109, 1), (110, 2), (156, 2), (190, 3), (236, 3)])
def test_a_wide_zoom_has_columns(width: int, columns: int) -> None:
    for spec in SPECS:
        found = places(spec, VIEW, "zoom", width, 50)
        assert len({p.x for p in found}) == columns
        assert all(p.x + p.width <= width for p in found)
        assert max(length(row) for row in draw_panel(spec, VIEW, "zoom", width, 50)) <= width


def test_labels_stay_near_their_values_however_wide_the_panel() -> None:
    spec = PanelSpec("x", "x", "engines", (Placed("efficiency", 3), Placed("kv-cache", None, 1)))
    rows = draw_panel(spec, VIEW, "grid", 109, 30)
    assert max(length(row) for row in rows[:3]) == 80
    assert max(length(row) for row in rows[4:]) == 109
