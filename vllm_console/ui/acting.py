"""The part of the console that does what keys ask: commands, their outcome, screens, clipboard."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

from textual.app import App, SuspendNotSupported

from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Model
from vllm_console.ui.board import Board
from vllm_console.ui.messages import Answered
from vllm_console.ui.pursuit import DOING, FILE, FilePursuit, Pursuit, failure_of
from vllm_console.ui.screens.confirm import Confirm
from vllm_console.ui.source import Connect
from vllm_console.ui.states import refusal
from vllm_console.ui.view import View

READONLY = "this console is read-only"
_ASKED_BACK = ("unload", "restart")
_LONGEST_COPY_TOLD = 60


class Acting(App[None]):
    """What screens ask of the console, as `application.Application` has it."""

    board: Board
    connect: Connect
    readonly: bool
    run_editor: Callable[[str], str | None]
    """Opens a file in the user's editor; the value is why it did not."""

    def say(self, level: str, text: str) -> None:
        """One line about what a key did."""
        raise NotImplementedError

    def paint(self) -> None:
        """Draw the newest view."""
        raise NotImplementedError

    @property
    def refused(self) -> str | None:
        """Why nothing can be changed now."""
        raise NotImplementedError

    @property
    def view(self) -> View:
        """What the blocks draw now."""
        raise NotImplementedError

    # -- commands --------------------------------------------------------------------------

    def act(self, verb: str, model: Model | None, workers: int | None = None) -> None:
        """Do what a key asks for, ask back first, or say why not."""
        if why := (READONLY if self.readonly else self.refused):
            self.say("info", why)
        elif model is None:
            self.say("info", "no model is selected")
        elif why := refusal(verb, model, workers):
            self.say("info", why)
        elif verb in _ASKED_BACK or (workers is not None and workers < model.wanted):
            self.push_screen(Confirm(verb, model, workers))
        else:
            self.command(verb, model.name, workers)

    def command(self, verb: str, model: str, workers: int | None = None) -> None:
        """Ask the daemon, in a thread; its answer comes as `Answered`, its outcome follows."""
        if why := self.refused:
            self.say("info", why)
            return
        more = {} if workers is None else {"workers": workers}
        self._pursue(verb, model, workers)
        to = "" if workers is None else f" to {workers}"
        self.say("info", f"{DOING.get(verb, verb)} {model}{to} …")
        self._run(verb, f"{verb} {model}", model=model, **more)

    def ask(self, verb: str, title: str, **args: Any) -> None:
        """Ask the daemon for what no key does; events tell what comes of it."""
        if why := (READONLY if self.readonly else self.refused):
            self.say("info", why)
            return
        self.say("info", f"{title} …")
        self._run(verb, title, **args)

    def confirm(self, verb: str, model: Model, what: str, yes: Callable[[], None]) -> None:
        """Ask back before what destroys; `what` is what happens to whom."""
        self.push_screen(Confirm(verb, model, what=what, yes=yes))

    def apply_file(self, digest: str | None) -> None:
        """Ask the daemon to carry out what applying the fleet file was shown to do."""
        if why := self.refused:
            self.say("info", why)
            return
        events = self.board.snapshot.events if self.board.snapshot else ()
        self.board.pursued[FILE] = FilePursuit(max((event.seq for event in events), default=0))
        self.say("info", "applying the fleet file …")
        self._run("apply", "apply", digest=digest, wait=False)

    def _pursue(self, verb: str, name: str, workers: int | None) -> None:
        snapshot = self.board.snapshot
        models = snapshot.models if snapshot else ()
        failure = next((failure_of(m) for m in models if m.name == name), None)
        self.board.pursued[name] = Pursuit(verb, name, failure, workers)
        self.paint()

    def _run(self, verb: str, title: str, **args: Any) -> None:
        work = partial(self._ask, verb, title, args)
        self.run_worker(work, name=title, group="commands", thread=True)

    def _ask(self, verb: str, title: str, args: dict[str, Any]) -> None:
        model = args.get("model")
        try:
            client = self.connect()
            try:
                client.command(verb, **args)
            finally:
                client.close()
        except (ConsoleError, OSError) as error:
            self.post_message(Answered("crit", f"{title}: {error}", model))
        else:
            whole = f"{DOING.get(verb, verb)} {model or 'the fleet file'}"
            text = f"{whole if verb in DOING else title}: accepted"
            self.post_message(Answered("ok", text, model))

    def on_answered(self, message: Answered) -> None:
        """The daemon's answer, one line; what it refused is followed no further."""
        if message.level == "crit":
            self.board.pursued.pop(message.model or FILE, None)
        self.say(message.level, message.text)
        self.paint()

    def tell_outcomes(self) -> None:
        """One line for each command that has come to its end."""
        for level, text in self.board.outcomes():
            self.say(level, text)

    # -- screens, clipboard, editor --------------------------------------------------------

    def open(self, what: str, key: str | None = None) -> None:
        """Show a screen about a model or worker (default: the selected one), or the fleet."""
        from vllm_console.ui.screens import opened

        screen = opened(what, key or self.board.selected)
        if screen is None:
            self.say("info", "no model is selected")
        else:
            self.push_screen(screen)

    def leave(self) -> None:
        """End the console; the fleet goes on."""
        self.exit(return_code=0)

    def open_palette(self) -> None:
        """Every command by its name."""
        self.action_command_palette()

    def copy(self, text: str) -> None:
        """Put a text on the terminal's clipboard (OSC 52, which most terminals obey)."""
        self.copy_to_clipboard(text)
        first = text.splitlines()[0] if text else ""
        more = len(first) > _LONGEST_COPY_TOLD or "\n" in text
        self.say("ok", f"copied: {first[:_LONGEST_COPY_TOLD]}{'…' if more else ''}")

    def acknowledge(self) -> None:
        """Hide the alerts of now until they change."""
        many = self.board.acknowledge()
        plural = "" if many == 1 else "s"
        text = f"{many} alert{plural} hidden until something changes" if many else "no alerts"
        self.say("info", text)
        self.paint()

    def edit(self, path: str) -> str | None:
        """Open a file in the user's editor and wait for its end; the value is why it did not."""
        return self.run_editor(path)

    def edit_in_terminal(self, path: str) -> str | None:
        """Give the terminal to $VISUAL or $EDITOR until it ends."""
        words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
        try:
            with self.suspend():
                code = subprocess.call([*words, path])
        except SuspendNotSupported:
            return f"this terminal cannot be lent to an editor: edit {path} in another"
        except OSError as error:
            return f"{words[0]}: {error.strerror}; $EDITOR names the editor"
        return f"{words[0]} ended with exit code {code}" if code else None
