"""What graphs ask for: combined where rows are combined."""

from __future__ import annotations

from vllm_console.history.track import Track


def test_rows_are_averaged_except_where_the_last_one_speaks() -> None:
    track = Track(("mean", "last"), keep_s=1000.0, fine_s=20.0, last=frozenset({"last"}))
    for at in range(100):
        track.add(float(at), (float(at), float(at)))
    assert track.series("mean", 100.0, 10.0) == [10.0 * n + 4.5 for n in range(10)]
    assert track.series("last", 100.0, 10.0) == [10.0 * n + 9.0 for n in range(10)]


def test_an_unknown_value_does_not_pull_the_mean_down() -> None:
    track = Track(("a",), keep_s=1000.0, fine_s=20.0)
    for at in range(100):
        track.add(float(at), (None if at % 2 else 3.0,))
    assert track.series("a", 100.0, 10.0) == [3.0] * 10
