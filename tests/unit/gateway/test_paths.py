"""The paths that are passed on, and the many more that are not."""

from __future__ import annotations

import pytest

from vllm_console.gateway.paths import KIND, KINDS


def test_a_path_has_one_kind() -> None:
    assert len(KIND) == len(KINDS)


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/load_lora_adapter",
        b"/v1/unload_lora_adapter",
        b"/sleep",
        b"/wake_up",
        b"/pause",
        b"/collective_rpc",
        b"/reset_prefix_cache",
        b"/update_weights",
        b"/abort_requests",
        b"/metrics",
        b"/invocations",
        b"/v1/chat/completions/",
        b"/v1/chat/completions?x=1",
        b"//v1/chat/completions",
        b"/v1/../v1/completions",
        b"/V1/completions",
        b"/v1/completions%00",
        b"/v1/responses/resp_1",
    ],
)
def test_what_is_not_named_is_not_passed_on(path: bytes) -> None:
    assert path not in KIND


def test_only_what_streams_is_asked_for_usage() -> None:
    assert all(kind.streams for kind in KINDS if kind.splices)
    assert all(kind.metered for kind in KINDS if kind.streams or kind.limits)


def test_only_paths_of_anthropic_have_its_errors() -> None:
    paths = {kind.path for kind in KINDS if kind.shape == "anthropic"}
    assert paths == {b"/v1/messages", b"/v1/messages/count_tokens"}
