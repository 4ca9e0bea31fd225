"""Where prompts were found instead of computed, and how the selected model is kept and reached."""

from __future__ import annotations

from vllm_console.snapshot import Model
from vllm_console.ui.format import NONE, count, percent
from vllm_console.ui.rows import Row, Span, cell, clip, half_widths, head, known, pair, stack
from vllm_console.ui.view import View

_SOURCES = (
    ("computed", ("local_compute",), "track"),
    ("local", ("local_cache_hit",), "engines5"),
    ("external", ("external_kv_transfer",), "batching"),
)
"""Legend, sources of vLLM's prompt_tokens_by_source, ink."""
_ROOMY = 40
_SHORT = {"computed": "new", "external": "ext"}
_TIERS = ("host", "disk", "p2p")
"""Tiers beyond the GPU that a cached token may come of."""


def ask(view: View, width: int, height: int) -> int:
    """A title, the bar and its legend, two rows of facts; one more behind a gateway."""
    return 5 + (view.model is not None and view.model.balancing is not None)


def draw(view: View, width: int, height: int) -> list[Row]:
    """Hit rates of the caches, the sources of prompt tokens, and what reaches the model how."""
    load, model = view.load, view.model
    if load is None or model is None:
        return []
    one, two = half_widths(width)
    return [
        head(
            "cache hits",
            width,
            *_rate("", load.prefix_cache_hit_rate),
            *_rate("  ext ", model.load.cache.external_hit_rate),
            *_rate("  media ", model.load.cache.multimodal_hit_rate),
        ),
        *_sources(model, width),
        pair(cell("preload", *_preload(model), one), cell("LoRA", *_lora(model), two), width),
        *_reached(model, width),
    ][:height]


def _reached(model: Model, width: int) -> list[Row]:
    """How requests are spread, what is with its workers, and the limit that moves."""
    one, two = half_widths(width)
    limit = model.batching.limit if model.batching.policy in ("adaptive", "predictive") else None
    adaptive = cell("adaptive", NONE if limit is None else str(limit), "", "value", two)
    if model.balancing is None:
        return [pair(cell("balance", NONE, "", "value", one), adaptive, width)]
    policy = model.balancing
    while len(policy) > width - len("balance ") and ", " in policy:
        policy = policy.rpartition(", ")[0]
    in_flight = cell("in flight", count(model.in_flight), "", "value", one)
    return [cell("balance", policy, "", "value", width), pair(in_flight, adaptive, width)]


def _rate(label: str, ratio: float | None) -> list[Span]:
    end = [] if ratio is None else [("%", "dim")]
    return [(label, "dim"), known(percent(ratio)), *end]


def _sources(model: Model, width: int) -> list[Row]:
    """The bar of prompt tokens by source and its legend; a dashed line while there are none."""
    told = model.load.cache.prompt_tokens_from
    total = sum((told or {}).values())
    if not told or not total:
        why = "prompt tokens by source: " + ("none yet" if told else "not told")
        return [stack([], width), clip([(why, "dim")], width)]
    parts = [
        (sum(told.get(source, 0.0) for source in sources), ink, label)
        for label, sources, ink in _SOURCES
    ]
    legend: Row = []
    for size, ink, label in parts:
        if width < _ROOMY:
            label = _SHORT.get(label, label)
        share = f"{percent(size / total)}%"
        legend += [("  " if legend else "", ""), ("■ ", ink), (f"{label} ", "label")]
        legend.append((share, "value" if size else "dim"))
    tiers = model.load.cache.cached_in or {}
    far = [(tier, tiers[tier]) for tier in _TIERS if tiers.get(tier)]
    for tier, size in far:
        legend += [(f"  {tier} ", "dim"), (f"{percent(size / total)}%", "label")]
    return [stack([(size, ink) for size, ink, _ in parts], width), clip(legend, width)]


def _preload(model: Model) -> tuple[str, str, str]:
    """Value, unit and ink: whether it is started with the fleet, and may be evicted."""
    if model.pinned:
        return "pinned", "", "value"
    return ("at start", "", "text") if model.autostart else ("on load", "", "dim")


def _lora(model: Model) -> tuple[str, str, str]:
    lora = model.lora
    if lora is None:
        off = model.engine.lora is False
        return "off" if off else NONE, "", "dim"
    return f"{len(lora.running)} of {lora.max or NONE}", "", "value"
