"""The row of random sequences: faults and commands in any order, then the promises are checked."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.faults.site import Member, lives
from benchmarks.faults.starts import Bystander, forge
from benchmarks.faults.table import NotMet, Outcome, Row, Scale, Trials, until
from benchmarks.faults.trees import fake_fleet, model
from vllm_console.errors import ConsoleError
from vllm_console.launchers.processes import send
from vllm_console.workers import adoption
from vllm_console.workers.adoption import Fate
from vllm_console.workers.shim import descendants

RANDOM = "random sequences of faults and commands"
LANES = 4
"""Fleets that are hurt side by side."""
READY_AGAIN_S = 30.0
MODELS = ("one", "two")
STEPS_MOST = 6
PAUSE_MOST_S = 0.3


class Lane:
    """One fleet of two workers and a bystander, and the faults that can be put into it."""

    def __init__(self, root: Path) -> None:
        models = (model("one", "sleep_level = 2", fake_gentle=True), model("two"))
        self.site = fake_fleet(root, *models, drain="1s")
        self.stranger = Bystander(root / "heard")
        self.faults: dict[str, Callable[[str], None]] = {
            "kill the daemon": self._kill_daemon,
            "end the daemon": self._end_daemon,
            "up": self._up,
            "kill the server of": lambda name: self._signal(name, 0, signal.SIGKILL),
            "kill the engine of": lambda name: self._signal(name, 1, signal.SIGKILL),
            "stop the engine of": lambda name: self._signal(name, 1, signal.SIGSTOP),
            "kill a grandchild of": lambda name: self._signal(name, 2, signal.SIGKILL),
            "kill the shim of": self._kill_shim,
            "forge the state of": self._forge,
            "damage the state of": self._damage,
            "load": lambda name: self._command("load", name),
            "unload": lambda name: self._command("unload", name),
            "restart": lambda name: self._command("restart", name),
            "sleep": lambda _: self._rest("sleep"),
            "wake": lambda _: self._rest("wake"),
        }

    def play(self, chance: random.Random, played: list[str]) -> None:
        """Put some faults in, at some distance from each other; `played` hears what they are."""
        for _ in range(chance.randint(1, STEPS_MOST)):
            fault, name = chance.choice(list(self.faults)), chance.choice(MODELS)
            played.append(f"{fault} {name}" if fault[-1] == "f" else fault)
            self.faults[fault](name)
            time.sleep(chance.uniform(0.0, PAUSE_MOST_S))

    def check(self) -> float:
        """Ask for every model again; the seconds until the fleet is whole. Raises `NotMet`."""
        began = time.monotonic()
        self._up("")
        for name in MODELS:
            self.site.command("load", model=name)
        self.site.ready(*(f"{name}-1" for name in MODELS), within_s=READY_AGAIN_S)
        took = time.monotonic() - began
        try:
            until(lambda: not self._unowned(), 5.0, "every process has an owner", every_s=0.05)
        except NotMet:
            titles = self.site.processes()
            found = [f"{titles.get(member)} ({member[0]})" for member in self._unowned()]
            raise NotMet(f"without an owner: {', '.join(found)}") from None
        heads = sorted(self._heads())
        if heads != sorted(MODELS):
            raise NotMet(f"not one tree a worker: {heads}")
        self.stranger.unharmed()
        return took

    def end(self) -> list[str]:
        """`down`, and an end to whatever that left; what that was."""
        self.site.verb("down", check=False)
        self.stranger.end()
        return self.site.end()

    def _unowned(self) -> set[Member]:
        """Processes of the site that are neither the daemon nor below a worker's shim or head."""
        pids = set()
        for name in MODELS:
            directory = self.site.directory(f"{name}-1")
            seen = adoption.inspect(directory)
            if seen.shim is not None:
                pids |= {seen.shim[0], *descendants(seen.shim[0])}
            elif seen.fate is Fate.SHIM_LOST and seen.record is not None:
                pids |= {pid for pid, _ in adoption.left(directory, seen.record)}
        daemon = self.site.daemon()
        return {m for m in self.site.processes() if m[0] not in pids and m != daemon}

    def _heads(self) -> list[str]:
        """The models that the `vllm serve` trees of the site serve, one entry a tree."""
        serving = {
            pid: words[words.index("--served-model-name") + 1]
            for pid, _ in self.site.processes()
            if "--served-model-name" in (words := _argv(pid))
        }
        below = {child for pid in serving for child in descendants(pid)}
        return [name for pid, name in serving.items() if pid not in below]

    def _up(self, _: str) -> None:
        self.site.up()

    def _kill_daemon(self, _: str) -> None:
        self._if_there_is_a_daemon(signal.SIGKILL)

    def _end_daemon(self, _: str) -> None:
        self._if_there_is_a_daemon(signal.SIGTERM)

    def _if_there_is_a_daemon(self, number: signal.Signals) -> None:
        if self.site.daemon() is not None:
            self.site.kill_daemon(number)

    def _command(self, verb: str, name: str) -> None:
        if self.site.daemon() is not None:
            self.site.command(verb, model=name)

    def _rest(self, verb: str) -> None:
        """Of the model that can; it is refused to one that is not ready, or does not sleep."""
        with suppress(ConsoleError):
            self._command(verb, MODELS[0])

    def _signal(self, name: str, place: int, number: signal.Signals) -> None:
        tree = self.site.tree(f"{name}-1")
        if len(tree) > place:
            send(tree[place], number)

    def _kill_shim(self, name: str) -> None:
        shim = self.site.shim(f"{name}-1")
        if shim is not None:
            send(shim, signal.SIGKILL)
            until(lambda: not lives(shim), 5.0, "the shim is gone")

    def _forge(self, name: str) -> None:
        if (self.site.directory(f"{name}-1") / "state.json").exists():
            forge(self.site.directory(f"{name}-1"), self.stranger.member)

    def _damage(self, name: str) -> None:
        path = self.site.directory(f"{name}-1") / "state.json"
        if path.exists():
            path.write_text('{"pid": 1, "sta')


def random_sequences(root: Path) -> Outcome:
    """Afterwards every worker is ready, has one tree, and no process is without an owner."""
    lanes = [Trials(200 // LANES) for _ in range(LANES)]
    threads = [
        threading.Thread(target=_drive, args=(root / f"lane-{number}", number, trials))
        for number, trials in enumerate(lanes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = Trials(1)
    for trials in lanes:
        whole.injections += trials.injections
        whole.survived += trials.survived
        whole.recovery_s += trials.recovery_s
        whole.broken += trials.broken
    return whole.outcome(
        RANDOM, "fake", f"seed {Scale.seed}; a stranger beside them gets no signal"
    )


ROWS: dict[str, Row] = {RANDOM: random_sequences}


def _drive(root: Path, number: int, trials: Trials) -> None:
    """Sequence after sequence over one fleet; over a new one after a promise was broken."""
    lane: Lane | None = None
    for sequence in trials:
        seed = f"{Scale.seed}-{number}-{sequence}"
        played: list[str] = []
        with trials.injection():
            try:
                if lane is None:
                    lane = Lane(root / str(sequence))
                    lane.check()
                lane.play(random.Random(seed), played)
                trials.recovered(lane.check())
            except (NotMet, ConsoleError) as error:
                if lane is not None:
                    lane.end()
                lane = None
                raise NotMet(f"sequence {seed} ({', '.join(played)}): {error}") from None
    if lane is not None and (left := lane.end()):
        trials.survived -= 1
        trials.broken.append(f"left running after `down`: {', '.join(left)}")


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []
