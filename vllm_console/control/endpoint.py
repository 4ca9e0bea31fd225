"""Keeps one gateway running: starts it, adopts it, watches it, replaces it without a lost request.

The listening socket is opened here and handed to the gateway, and a copy of it stays here: while
a gateway that died is started again, connections wait in the kernel and none is refused.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vllm_console import __version__
from vllm_console.control.gateway_link import Hearing, NotLinked, connect
from vllm_console.control.gateway_process import (
    LOG,
    Child,
    NotStarted,
    PortTaken,
    Running,
    is_alive,
    last_words,
    listen,
    refuse_bad_tls,
    spawn,
)
from vllm_console.errors import ConsoleError
from vllm_console.gateway.link import NotHandedOver, spare
from vllm_console.gateway.place import Config, is_held, read_record
from vllm_console.gateway.table import Table
from vllm_console.launchers.processes import end_of, send
from vllm_console.workers.shim import process

ANSWERS_S = 20.0
"""A gateway that starts is linked within some 0.3 s; a slow disk is given this long."""
SILENT_S = 30.0
"""One that says nothing for so long, though it tells its numbers each second, is replaced."""
PORT_AGAIN_S = 5.0
"""Between two attempts to get a port that somebody else has."""
AGAIN_S = 30.0
"""Between two attempts to take up a configuration, while an earlier one is served by."""
BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.2, 30.0
HEALTHY_S = 60.0
"""Running this long forgets earlier deaths."""
DRAIN_S = 10.0
"""How long a gateway that is to end may finish what it has."""
TERM_S = 2.0
_DEATH_S = 0.5
"""Between the end of a link and the end of its process, where the one comes of the other."""
_LOOK_S = 0.02

Tell = Callable[[str, str, str], object]
"""Records an event: level, subject, text."""


_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """The listening socket that is kept for the next gateway, and the address it was opened for."""

    sock: socket.socket
    address: tuple[str, int]


@dataclass(slots=True)
class Endpoint:
    """The gateway of one fleet. All methods run on one event loop."""

    directory: Path
    """Where its files lie (0700)."""
    wanted: Callable[[], Config | None]
    """How it is to be started now; `None` for not at all."""
    table: Callable[[], Table | None]
    """The newest routing table; `None` while there is none to give."""
    hearing: Hearing
    tell: Tell
    clock: Callable[[], float] = time.monotonic
    program: Sequence[str] = (sys.executable, "-m", "vllm_console.gateway")
    trouble: str | None = None
    """Why it does not run, or not as it should; `None` while all is well."""
    now: Running | None = None
    leaving: list[Running] = field(default_factory=list)
    """Gateways that were replaced and finish what they have."""
    _kept: _Kept | None = None
    _starting: Child | None = None
    _look: asyncio.Event = field(default_factory=asyncio.Event)
    _deaths: int = 0
    _refused: Config | None = None
    """A configuration that did not come up beside the one that serves."""
    _refused_at: float = 0.0
    _restarts: list[asyncio.Future[None]] = field(default_factory=list)
    _ends: set[asyncio.Task[None]] = field(default_factory=set)
    _ending: bool = False

    # -- what one can ask of it ---------------------------------------------------------------

    def changed(self) -> None:
        """Hear that the configuration may have changed."""
        self._look.set()

    def send_table(self) -> None:
        """Have every gateway that runs serve by the newest table."""
        table = self.table()
        if table is not None:
            for running in self._all():
                running.link.send_table(table)

    async def drained(self, worker: str) -> None:
        """Return once no request of any gateway is with a worker."""
        await asyncio.gather(*(running.link.drained(worker) for running in self._all()))

    async def restart(self) -> None:
        """Replace the gateway by a new process, no request lost; return once that one serves.

        Raises `ConsoleError` where it does not come up; the one before serves on then.
        """
        if self.wanted() is None:
            raise ConsoleError("the gateway is off: [gateway] enabled = false in the fleet file")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._restarts.append(done)
        self._look.set()
        await done

    async def keep(self) -> None:
        """Keep it running, for ever."""
        while True:
            self._look.clear()
            try:
                pause = await self._once()
            except PortTaken as error:
                self._say(str(error))
                pause = PORT_AGAIN_S
            except ConsoleError as error:
                self._say(str(error))
                pause = self._backoff_s()
            except Exception as error:
                _log.exception("the gateway could not be kept")
                self._say(f"internal error, see daemon.log: {error!r}")
                pause = BACKOFF_MOST_S
            self._answer(self.trouble)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()

    async def stop(self) -> None:
        """End every gateway: what they have is finished within `DRAIN_S`."""
        self._ending = True
        self._answer("the fleet goes down")
        child, self._starting = self._starting, None
        if child is not None:
            await child.end()
        running = self._all()
        for each in running:
            each.link.stop()
        await asyncio.gather(*(self._ended(each) for each in running))
        self.now = None
        await self._end_unlinked()
        self._let_go()

    def close(self) -> None:
        """The daemon ends: the gateway serves on, and the next daemon adopts it."""
        self._ending = True
        self._answer("the daemon ends")
        for running in self._all():
            running.link.close()
        for task in self._ends:
            task.cancel()
        self._let_go()

    # -- keeping it ---------------------------------------------------------------------------

    async def _once(self) -> float | None:
        """Bring it up and watch it until it is gone; the pause before the next, `None` for none."""
        wish = self.wanted()
        if self.now is None:
            self.now = await self._found()
        if wish is None:
            await self._switch_off()
            return None
        if self.now is None:
            self.now = await self._begun(wish)
            self.tell("ok", "gateway", f"serves {self.now.url}, pid {self.now.pid}")
            self._greet(self.now)
        return await self._watched(self.now)

    async def _found(self) -> Running | None:
        """The gateway that runs already, if one does; one that does not answer is ended."""
        until = self.clock() + ANSWERS_S / 4
        while is_held(self.directory):
            try:
                found = await self._linked(None)
            except NotLinked:
                if self.clock() < until:
                    await asyncio.sleep(_LOOK_S)
                    continue
                await self._end_silent()
                return None
            self.tell("ok", "gateway", f"adopted, pid {found.pid}, {found.url}, not touched")
            await self._keep_spare(found)
            self._greet(found)
            return found
        return None

    async def _end_silent(self) -> None:
        record = read_record(self.directory)
        if record is None or not is_alive(record):
            raise ConsoleError(
                f"{self.directory / 'lock'} is held by a process that is no gateway of this fleet; "
                "end it (`fuser` names it), or choose another --state-dir"
            )
        self.tell("crit", "gateway", f"pid {record.pid} does not answer, and is ended")
        send((record.pid, record.start), signal.SIGKILL)
        await end_of(record.pid, record.start)

    async def _end_unlinked(self) -> None:
        """End one that serves here and was not linked with yet."""
        record = read_record(self.directory) if is_held(self.directory) else None
        if record is None or not is_alive(record):
            return
        ended = asyncio.create_task(end_of(record.pid, record.start))
        for number, patience in ((signal.SIGTERM, DRAIN_S + TERM_S), (signal.SIGKILL, TERM_S)):
            send((record.pid, record.start), number)
            await asyncio.wait({ended}, timeout=patience)
            if ended.done():
                return
        await ended

    async def _keep_spare(self, found: Running) -> None:
        """Have a copy of its listening socket."""
        address = (str(found.hello.get("host")), int(found.hello.get("asked_port") or 0))
        with suppress(NotHandedOver, OSError):
            copy = await asyncio.to_thread(spare, self.directory)
            self._let_go()
            self._kept = _Kept(copy, address)

    async def _begun(self, wish: Config) -> Running:
        """A new gateway, linked; it takes the place of one that runs.

        Raises `PortTaken`, or `NotStarted` with its last words.
        """
        if wish.tls_cert is not None:
            await asyncio.to_thread(refuse_bad_tls, wish)
        before, kept = self._kept, self._listening(wish)
        try:
            self._starting, said = spawn(self.program, self.directory, wish, kept.sock)
            running = await self._answering(self._starting, said)
        except ConsoleError:
            self._starting = None
            if kept is not before:
                kept.sock.close()
            raise
        self._starting = None
        if before is not None and kept is not before:
            before.sock.close()
        self._kept, self.trouble, self._refused = kept, None, None
        return running

    async def _answering(self, child: Child, said: int) -> Running:
        """Link with a process that was just started."""
        until = self.clock() + ANSWERS_S
        while True:
            with suppress(NotLinked):
                return await self._linked(child)
            if child.poll() is not None:
                words = last_words(self._log, said) or f"exit code {child.code}"
                raise NotStarted(f"the gateway did not start: {words}")
            if self.clock() > until:
                await child.end()
                raise NotStarted(
                    f"the gateway did not answer within {ANSWERS_S:g} s; see {self._log}"
                )
            await asyncio.sleep(_LOOK_S)

    async def _linked(self, child: Child | None) -> Running:
        """Link with the gateway that answers, which is to be `child` if one is given."""
        link, hello = await connect(self.directory, self.hearing, self.clock)
        pid, start = hello.get("pid"), hello.get("start")
        seen = process(pid) if isinstance(pid, int) else None
        mine = child is None or pid == child.pid
        if not isinstance(pid, int) or seen is None or seen[0] != start or not mine:
            link.close()
            raise NotLinked("another gateway answers")
        return Running(pid, seen[0], link, hello, self.clock(), child)

    def _greet(self, running: Running) -> None:
        table = self.table()
        if table is not None:
            running.link.send_table(table)

    async def _watched(self, running: Running) -> float:
        """Watch a gateway until it is gone; replace it where it is not as wanted."""
        ended = asyncio.create_task(end_of(running.pid, running.start))
        closed = asyncio.create_task(running.link.closed.wait())
        try:
            while True:
                self._look.clear()
                if self._not_as_wanted(running):
                    return await self._replaced(running)
                look = asyncio.create_task(self._look.wait())
                await asyncio.wait(
                    {ended, closed, look}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
                )
                look.cancel()
                if closed.done():  # as it is when it dies, be it seen a little later
                    await asyncio.wait({ended}, timeout=_DEATH_S)
                if ended.done():
                    return self._died(running)
                if closed.done():
                    self.now = None  # it lives: looked for again, and ended if it does not answer
                    return 0.0
                if self.clock() - running.link.heard_at > SILENT_S:
                    text = f"pid {running.pid} says nothing for {SILENT_S:.0f} s, and is ended"
                    self.tell("crit", "gateway", text)
                    send((running.pid, running.start), signal.SIGKILL)
                    await ended
        finally:
            ended.cancel()
            closed.cancel()

    def _not_as_wanted(self, running: Running) -> bool:
        wish = self.wanted()
        if wish is None or self._restarts:
            return True
        if running.version == __version__ and running.config == wish.digest:
            if self._refused is not None:  # what did not come up is no longer wanted
                self._refused = self.trouble = None
            return False
        return wish != self._refused or self.clock() - self._refused_at > AGAIN_S

    async def _replaced(self, running: Running) -> float:
        """Put a new process in a gateway's place; 0 s until the next look."""
        wish = self.wanted()
        if wish is None:
            await self._switch_off()
            return 0.0
        if self._kept is None:
            await self._keep_spare(running)
        try:
            new = await self._begun(wish)
        except ConsoleError as error:
            self._refused, self._refused_at = wish, self.clock()
            self._say(f"{error}; pid {running.pid} serves on as before")
            self._answer(str(error))
            return 0.0
        self.leaving.append(running)
        task = asyncio.create_task(self._gone(running))
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        self.now = new
        self._greet(new)
        text = f"replaced by pid {new.pid}, {new.url}; pid {running.pid} finishes what it has"
        self.tell("ok", "gateway", text)
        self._answer(None)
        return 0.0

    async def _gone(self, running: Running) -> None:
        """Wait for a gateway that was replaced to end."""
        await end_of(running.pid, running.start)
        running.link.close()
        self.leaving.remove(running)
        if running.child is not None:
            running.child.poll()

    def _died(self, running: Running) -> float:
        """Note the end of a gateway; the pause before it is started again."""
        self.now = None
        running.link.close()
        how = ""
        if running.child is not None:
            code = running.child.poll()
            how = f" (signal {-code})" if code is not None and code < 0 else f" (exit code {code})"
        if self.clock() - running.since > HEALTHY_S:
            self._deaths = 0
        pause = self._backoff_s()
        self.trouble = f"pid {running.pid} ended{how}; it is started again"
        self.tell("crit", "gateway", f"ended, pid {running.pid}{how}; starts again in {pause:g} s")
        return pause

    async def _switch_off(self) -> None:
        """End the gateway, as its configuration says."""
        running, self.now = self.now, None
        if running is not None:
            running.link.stop()
            await self._ended(running)
            self.tell("info", "gateway", "off, as the fleet file says")
        self._let_go()
        self.trouble = None

    async def _ended(self, running: Running) -> None:
        """Return when a gateway that was told to end has ended; at the latest it is killed."""
        ended = asyncio.create_task(end_of(running.pid, running.start))
        for patience, number in ((DRAIN_S, signal.SIGTERM), (TERM_S, signal.SIGKILL)):
            await asyncio.wait({ended}, timeout=patience)
            if not ended.done():
                send((running.pid, running.start), number)
        await ended
        running.link.close()
        if running.child is not None:
            running.child.poll()

    # -- small things -------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.directory / LOG

    def _all(self) -> list[Running]:
        return [*([self.now] if self.now is not None else []), *self.leaving]

    def _backoff_s(self) -> float:
        pause: float = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(self._deaths, 20))
        self._deaths += 1
        return pause

    def _say(self, text: str) -> None:
        """Tell of a trouble, once as long as it lasts."""
        if text != self.trouble:
            self.trouble = text
            self.tell("crit" if self.now is None else "warn", "gateway", text)

    def _answer(self, error: str | None) -> None:
        """Answer those who asked for a restart."""
        asked, self._restarts = self._restarts, []
        for done in asked:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(ConsoleError(error))

    def _listening(self, wish: Config) -> _Kept:
        """The socket that is kept, or a new one where the address is another."""
        if self._kept is not None and self._kept.address == (wish.host, wish.port):
            return self._kept
        return _Kept(listen(wish.host, wish.port), (wish.host, wish.port))

    def _let_go(self) -> None:
        if self._kept is not None:
            self._kept.sock.close()
            self._kept = None
