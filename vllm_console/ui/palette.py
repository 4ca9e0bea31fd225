"""Every command by its name: what keys do, for each model, found by a few letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider

from vllm_console.snapshot import Model
from vllm_console.ui.application import Application, application
from vllm_console.ui.states import refusal
from vllm_console.ui.theme import OURS
from vllm_console.ui.theme_files import SHIPPED

Command = tuple[str, str, Callable[[], object]]
"""Name, what it does, how."""

_MEANS = {
    "load": "start the model",
    "unload": "drain and stop the model, after a question",
    "restart": "stop and start the model, after a question",
    "sleep": "take its weights off the GPU",
    "wake": "bring it back",
    "pin": "nothing evicts it",
    "unpin": "it may be evicted again",
}
_BEGINS = 10.0
"""What a name that begins with what was typed is ahead of those that hold it somewhere."""
_LAST = 1e-6
"""What a theme's score is worth: whoever types "pin" means no rose-pine."""
_SHARES = (10, 25, 50, 75, 100)
"""Of the requests, in percent: what a canary is offered."""
_COLOURS = "draw in these colours"
_SHOWS = {
    "details": "settings, environment, timeline and log of its worker",
    "log": "what its worker writes",
    "plan": "what a load would take, before it is done",
    "history": "percentiles of any span of the past",
}


def commands(app: Application) -> Iterator[Command]:
    """What can be done now; what is not legal is not offered."""
    yield "events", "all that happened, and who asked for what", lambda: app.open("events")
    yield "history fleet", "percentiles of the whole fleet", lambda: app.open("history", "fleet")
    yield "fleet file", "fleet.toml with its problems", lambda: app.open("file")
    free = not app.readonly and app.refused is None
    if free:
        yield "edit fleet file", "in $EDITOR, then see the plan", lambda: app.open("edit")
        yield "apply fleet file", "see the plan, then agree to it", lambda: app.open("apply")
    yield "acknowledge alerts", "hide them until they change", app.acknowledge
    yield "pause", "hold the picture still, or let it run", lambda: app.pause(not app.board.paused)
    snapshot, here = app.view.snapshot, app.view.model
    models = sorted(snapshot.models, key=lambda model: model != here) if snapshot else []
    for model in models:
        key = f"model/{model.name}"
        for verb, means in _MEANS.items():
            if free and refusal(verb, model) is None:
                yield f"{verb} {model.name}", means, partial(app.act, verb, model)
        for number in range(model.scale.min, model.scale.max + 1):
            legal = refusal("scale", model, number) is None
            if free and legal and model.scale.max > 1 and number != model.wanted:
                name = f"scale {model.name} to {number}"
                yield name, f"now {model.wanted} wanted", partial(app.act, "scale", model, number)
        if free:
            yield from _revisions(app, model)
        for what, means in _SHOWS.items():
            yield f"{what} {model.name}", means, partial(app.open, what, key)
    if free and snapshot is not None and snapshot.gateway.running:
        restart = partial(app.ask, "gateway-restart", "restart gateway")
        yield "restart gateway", "a new process, no request lost", restart
    yield "quit", "leave the console; the fleet goes on", app.leave


def _revisions(app: Application, model: Model) -> Iterator[Command]:
    """What tries another revision of a model, and what goes back to one."""
    name, canary = model.name, model.canary
    if canary is None and model.revision > 1:
        roll = partial(app.ask, "rollback", f"roll back {name}", model=name, wait=False)
        what = f"revision {model.revision - 1} takes the place of revision {model.revision}"
        means = f"serve revision {model.revision - 1} again, after a question"
        yield f"roll back {name}", means, partial(app.confirm, "roll back", model, what, roll)
    if canary is None and model.state == "ready":
        yield (
            f"canary {name} 10%",
            "try what fleet.toml says of it with a share of its requests",
            partial(app.ask, "canary", f"canary {name} 10%", model=name, share=0.1),
        )
    if canary is None:
        return
    for percent in _SHARES:
        if percent != round(canary.share * 100):
            title = f"canary {name} {percent}%"
            yield (
                title,
                f"revision {canary.revision} has {canary.share * 100:.3g} % of the requests now",
                partial(app.ask, "canary", title, model=name, share=percent / 100),
            )
    end = partial(app.ask, "canary", f"end canary {name}", model=name, end=True)
    what = f"its worker drains, then stops; revision {model.revision} has all requests"
    means = f"revision {model.revision} has all requests again, after a question"
    yield f"end canary {name}", means, partial(app.confirm, "end canary", model, what, end)


class ConsoleCommands(Provider):
    """The console's commands, as Textual's palette asks for them."""

    async def discover(self) -> Hits:
        """All of them, while nothing is typed."""
        for name, means, run in commands(application(self.screen)):
            yield DiscoveryHit(name, run, help=means)

    async def search(self, query: str) -> Hits:
        """Those that match, the best first."""
        matcher = self.matcher(query)
        for name, means, run in commands(application(self.screen)):
            score = matcher.match(name)
            if score > 0:
                begins = _BEGINS if name.startswith(query.lower()) else 0.0
                yield Hit(score + begins, matcher.highlight(name), run, help=means)


class ThemeCommands(Provider):
    """Every theme by its name; while nothing is typed, the user's own and ours."""

    @property
    def _own(self) -> list[str]:
        return application(self.screen).own_themes

    def _choice(self, name: str) -> Callable[[], object]:
        return partial(application(self.screen).choose_theme, name)

    async def discover(self) -> Hits:
        """The user's own and ours."""
        for name in [*self._own, *(ours.name for ours in OURS)]:
            yield DiscoveryHit(f"theme {name}", self._choice(name), help=_COLOURS)

    async def search(self, query: str) -> Hits:
        """Those that match, the best first."""
        matcher = self.matcher(query)
        for name in [*self._own, *SHIPPED]:
            score = matcher.match(f"theme {name}")
            if score > 0:
                title = matcher.highlight(f"theme {name}")
                yield Hit(score * _LAST, title, self._choice(name), help=_COLOURS)
