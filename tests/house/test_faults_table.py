"""The table of faults: what counts as survived, and that a site sees and ends what is its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.site import MARK, Site, identities
from benchmarks.faults.table import NotMet, Trials, require, survived, until
from benchmarks.faults.trees import fake_fleet, model


def test_a_broken_promise_is_counted_and_told_and_the_row_goes_on() -> None:
    trials = Trials(4)
    for number in trials:
        with trials.injection():
            require(number != 1, "the worker is ready")
            trials.recovered(0.5)
    outcome = trials.outcome("fault", "fake", "note")
    assert (outcome.injections, outcome.survived) == (4, 3)
    assert outcome.note == "note; the worker is ready"
    assert outcome.recovery_s == (0.5, 0.5, 0.5)
    assert not survived(outcome)


def test_a_row_that_fails_again_and_again_is_given_up() -> None:
    trials = Trials(50)
    for _ in trials:
        with trials.injection():
            until(lambda: False, 0.0, "it happens")
    outcome = trials.outcome("fault", "fake")
    assert (outcome.injections, outcome.survived) == (3, 0)
    assert outcome.note == "not within 0 s: it happens"


def test_a_row_without_injections_is_not_survived() -> None:
    assert not survived(Trials(1).outcome("fault", "fake"))


def leave_a_process(root: Path) -> None:
    """A site from which a process in a session of its own is left."""
    with Site(root, '[models.one]\nsource = "tiny:small"\nautostart = false\n') as site:
        words = [
            "sh",
            "-c",
            '"$0" -c "import signal; signal.pause()" 2>/dev/null >&2 & echo $!',
            sys.executable,
        ]
        said = subprocess.run(words, env={MARK: str(site.root)}, capture_output=True, check=True)
        (member,) = identities([int(said.stdout)])
        until(lambda: member in site.processes(), 5.0, "it is seen")


def test_a_process_that_a_site_left_behind_is_found_ended_and_told(tmp_path: Path) -> None:
    with pytest.raises(NotMet, match=r"left running after `down`.*python -c"):
        leave_a_process(tmp_path)
    assert Site(tmp_path, "").processes() == {}


def test_a_fleet_that_went_down_leaves_nothing(tmp_path: Path) -> None:
    with fake_fleet(tmp_path, model("one", fake_gentle=True)) as site:
        site.up()
        site.ready()
        assert len(site.tree("one-1")) == 3
        assert len(site.processes()) == 5
        site.verb("down")
        site.nothing_left()
