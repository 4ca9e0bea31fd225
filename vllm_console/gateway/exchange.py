"""One proxied request, from its head to the last byte of its answer: callbacks only, no task.

    reading ── waiting for a place ── sent to a worker ── answer passes through ── over
       └─── refused ─────┘                   └── to another worker, before the first byte

Whatever happens, `_over` runs once: places, budgets and counts are settled there and nowhere else.
"""

from __future__ import annotations

import time
from math import inf
from time import monotonic
from typing import final
from zlib import crc32

from vllm_console.gateway import body, heads, reasons, refusals
from vllm_console.gateway.admission import NORMAL, Reason, Waiting
from vllm_console.gateway.balancing import Balance, Slot
from vllm_console.gateway.body import Ask
from vllm_console.gateway.client import Client
from vllm_console.gateway.heads import Head
from vllm_console.gateway.keyring import Key
from vllm_console.gateway.measures import GONE, Record
from vllm_console.gateway.paths import Kind
from vllm_console.gateway.refusals import Refused
from vllm_console.gateway.reply import Reply
from vllm_console.gateway.routes import Gateway, Live, Wire
from vllm_console.http1 import Headers, HttpError, Line

RETRIES = 2
"""Other workers that are tried after the first."""
QUIET_S = 5.0
"""Seconds a streaming client waits before it is sent a head and a comment."""
COMMENT_S = 10.0
"""Seconds between comments: under the idle limit of every proxy and client seen."""


@final
class Exchange(Reply):
    """A request for a worker and what becomes of it; the taker of the worker's answer."""

    __slots__ = (
        "_admitted_at", "_arrived_at", "_ask", "_began", "_cls", "_comment_at", "_deadline",
        "_estimate", "_finished", "_gateway", "_gpu_s", "_head", "_key", "_line", "_live", "_mark",
        "_payload", "_pieces", "_prompt", "_queued_at", "_reserved", "_served_by", "_slot",
        "_stream", "_strips", "_tried", "_url", "_waiting", "_wire", "size",
    )  # fmt: skip

    def __init__(
        self,
        connection: Client,
        gateway: Gateway,
        kind: Kind,
        url: bytes,
        head: Head,
        key: Key,
        now: float,
    ) -> None:
        more = gateway.date
        if head.origin is not None:
            more += heads.cross_origin(head.origin, gateway.table.cors)
        request_id = head.request_id or heads.request_id()
        super().__init__(connection, kind, request_id, more, gateway.pace)
        self._gateway = gateway
        self._url = url
        self._head = head
        self._key = key
        self._began = now
        self._arrived_at = time.time()
        self._pieces: list[bytes] = []
        self.size = 0
        """Bytes of the request's body so far."""
        self._payload = b""
        """The body for the worker, while it may have to be sent again."""
        self._ask: Ask | None = None
        self._estimate = self._prompt = 0
        self._stream = self._strips = False
        self._cls = NORMAL
        self._live: Live | None = None
        self._reserved = False
        """Whether the key has counted it."""
        self._waiting: Waiting | None = None
        self._queued_at: float | None = None
        self._admitted_at: float | None = None
        self._comment_at = inf
        self._deadline = inf
        self._slot: Slot | None = None
        self._wire: Wire | None = None
        self._line: Line | None = None
        self._mark = 0.0
        self._gpu_s = 0.0
        self._served_by = ""
        self._tried: tuple[Slot, ...] = ()
        self._finished = False
        gateway.in_requests += 1

    # The request.

    def take(self, piece: bytes) -> None:
        """A piece of the request's body."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._gateway.reading += len(piece)

    def whole(self, now: float) -> None:
        """The request's body is complete."""
        pieces, self._pieces = self._pieces, []
        self._gateway.reading -= self.size
        payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            self._whole(payload, now)
        except Refused as refused:
            self.refuse(refused)

    def _whole(self, payload: bytes, now: float) -> None:
        gateway, key, kind = self._gateway, self._key, self._kind
        ask = self._ask = body.read(kind, self._head.content_type, payload)
        live = self._live = gateway.names.get(ask.model)
        if live is None:
            allowed = [name for name, one in gateway.names.items() if key.allows(one.name)]
            raise refusals.unknown_model(ask.model, allowed)
        model = live.model
        if not key.allows(live.name):
            raise reasons.not_allowed(key.name, ask.model)
        if len(payload) > model.limits.body:
            raise reasons.too_large(model.limits.body)
        cls = max(body.class_of(self._head.priority, ask.priority), key.max_class)
        self._cls = cls
        self._stream, self._strips = ask.stream, ask.strips
        self._prompt = ask.prompt_estimate
        estimate = ask.bounded(model.max_model_len)
        if model.limits.max_tokens is not None:
            estimate = min(estimate, ask.prompt_estimate + model.limits.max_tokens)
        self._estimate = estimate
        self._payload = body.written(kind, payload, ask, model, cls)
        over = key.admit(estimate, now, self._arrived_at)
        if over is not None:
            raise over
        self._reserved = True
        self._queued_at = now
        queue = live.queue
        if queue.enter(cls, now):
            self._admitted_at = now
            self._go(now)
            return
        if not queue.capacity:
            if live.down or not model.on_demand:
                raise reasons.not_served("no-worker", live, self._cls)
            gateway.ask_for(live)
        self._comment_at = now + QUIET_S
        self._waiting = waiting = Waiting(
            cls, len(self._payload), now, self._admitted, self._turned_away
        )
        reason = queue.wait(waiting)
        if reason is not None:
            self._waiting = None
            raise reasons.not_served(reason, live, cls)

    def _admitted(self) -> None:
        self._waiting = None
        now = self._admitted_at = monotonic()
        self._go(now)

    def _turned_away(self, reason: Reason) -> None:
        self._waiting = None
        live = self._live
        assert live is not None
        self.refuse(reasons.not_served(reason, live, self._cls))

    # The worker.

    def _go(self, now: float) -> None:
        """Gives the request to a worker; it holds a place already."""
        live = self._live
        assert live is not None
        self._deadline = now + live.model.limits.request_s
        slot = self._pick(live.balance, now, ())
        if slot is None:
            self.refuse(reasons.not_served("no-worker", live, self._cls))
        else:
            self._give(slot, now)

    def _pick(self, balance: Balance, now: float, tried: tuple[Slot, ...]) -> Slot | None:
        if len(balance.usable) < 2:
            return balance.pick(0, 0, now, tried)
        ask, session = self._ask, self._head.session
        prefix = ask.prefix if ask is not None else 0
        return balance.pick(prefix, crc32(session) if session else 0, now, tried)

    def _give(self, slot: Slot, now: float) -> None:
        wire = self._wire = self._gateway.wires[slot.id]
        wire.in_flight += 1
        self._slot = slot
        self._mark = slot.begin(self._estimate, now)
        self._served_by = slot.id
        self._send(wire, fresh=False)

    def _send(self, wire: Wire, *, fresh: bool) -> None:
        payload = self._payload
        head = b"POST %b HTTP/1.1\r\n%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            self._url, wire.host_line, self._head.lines, self._id, len(payload),
        )  # fmt: skip
        line = self._line = wire.origin.send(head, payload, self, fresh=fresh)
        if self._connection.flow.write_paused:
            line.pause()

    def _leave(self, now: float) -> None:
        """Takes the request off its worker."""
        slot, wire = self._slot, self._wire
        if slot is not None and wire is not None:
            self._slot = self._wire = None
            wire.in_flight -= 1
            self._gpu_s += slot.end(self._estimate, self._mark, now)

    def _elsewhere(self, now: float) -> bool:
        """Tries another worker, if there is one and the budget of retries allows it."""
        live, slot = self._live, self._slot
        if self._spoken or len(self._tried) >= RETRIES or live is None or slot is None:
            return False
        tried = (*self._tried, slot)
        other = self._pick(live.balance, now, tried)
        if other is None or not live.balance.may_retry(now):
            return False
        self._leave(now)
        self._hang_up()
        self._tried = tried
        self._give(other, now)
        return True

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.abort()

    # The worker's answer.

    def answered(self, status: int, headers: Headers) -> None:
        """The worker's answer begins."""
        slot = self._slot
        assert slot is not None
        if status == 502 or status == 503:
            now = monotonic()
            slot.failed(now)
            if self._elsewhere(now):
                return
        elif status < 500:
            slot.succeeded(self._began)
        self._payload = b""
        self._ask = None
        self._begin(status, headers, self._strips, self._prompt)

    def delivered(self, error: str | None = None) -> None:
        """The answer has gone out to its end."""
        self._line = None
        self._over(self._status, error)

    def failed(self, error: HttpError, line: Line) -> None:
        """The worker's answer does not come, or breaks off."""
        self._line = None
        slot, wire = self._slot, self._wire
        assert slot is not None
        assert wire is not None
        if line.kept and not line.heard:
            self._send(wire, fresh=True)  # it had closed the connection while that was idle
            return
        now = monotonic()
        slot.failed(now)
        if self._elsewhere(now):
            return
        if self._spoken:
            self._break(reasons.worker_died())
        else:
            self.refuse(reasons.worker_lost("" if self._live is None else self._live.name))

    # Ends that are not the worker's.

    def refuse(self, refused: Refused) -> None:
        """Ends the exchange with an error in the shape that the path's clients know."""
        if self._finished:
            return
        self._hang_up()
        if self._begun:
            self._end(refusals.event(refused, self._kind))
        else:
            status, fields, payload = refusals.rendered(refused, self._kind)
            more = b"%bx-request-id: %b\r\n" % (self._more, self._id)
            self._connection.answer(status, fields, payload, more)
        self._over(refused.status, refused.code or "refused")

    def _break(self, refused: Refused) -> None:
        """Ends an answer that has begun: by an event in a stream, else by cutting it off."""
        if self._finished:
            return
        self._hang_up()
        if self._events:
            rest = b"\n\n" if self._tally is None else self._tally.cut()
            self._end(rest + refusals.event(refused, self._kind))
        else:
            self._connection.keep = False
            self._connection.transport.abort()
        self._over(self._status, refused.code)

    def cut_short(self) -> None:
        """The gateway ends: so does the exchange, with a word about it where there can be one."""
        refusal = reasons.shutting_down()
        if self._spoken:
            self._break(refusal)
        else:
            self.refuse(refusal)

    def gone(self) -> None:
        """The client has gone: so does the request, wherever it is."""
        if self._finished:
            return
        self._hang_up()
        if self._waiting is not None and self._live is not None:
            self._live.queue.withdraw(self._waiting)
            self._waiting = None
        self._over(GONE, "client_gone")

    def look(self, now: float) -> None:
        """What time brings: a comment for a client that waits, the end of an answer overdue."""
        if self._waiting is None and self._line is None:
            return
        if self._line is not None and now > self._deadline:
            if self._spoken:
                self._break(reasons.overdue())
            else:
                self.refuse(reasons.overdue())
            return
        if self._stream and not self._spoken and now >= self._comment_at:
            self._comment(now)

    def _comment(self, now: float) -> None:
        """Keeps a streaming client that waits, and every proxy before it, from giving up."""
        self._comment_at = now + COMMENT_S
        live = self._live
        assert live is not None
        if self._waiting is None and not self._begun:
            return  # the worker has it: its own head is to come
        if not self._connection.speaks_11:
            return
        text = f"{'waiting' if live.queue.capacity else 'loading'} {live.name}"
        if live.model.ready_in_s is not None and not live.queue.capacity:
            text += f", about {live.model.ready_in_s:.0f} s left"
        self._remark(text.encode())

    def pause(self) -> None:
        """The client does not keep up."""
        if self._line is not None:
            self._line.pause()

    def resume(self) -> None:
        """The client has caught up."""
        if self._line is not None:
            self._line.resume()

    def _over(self, status: int, error: str | None = None) -> None:
        """Settles and counts everything, once, and gives the connection back."""
        if self._finished:
            return
        self._finished = True
        now = monotonic()
        gateway, live, tally, key = self._gateway, self._live, self._tally, self._key
        self._payload = b""
        if self._pieces:
            gateway.reading -= sum(map(len, self._pieces))
            self._pieces.clear()
        self._leave(now)
        prompt = cached = generated = 0
        finish = None
        if tally is not None:
            prompt, cached, generated = tally.prompt, tally.cached, tally.generated
            finish = tally.finish
        queue_s = None
        if self._admitted_at is not None and self._queued_at is not None:
            queue_s = self._admitted_at - self._queued_at
        price = gateway.table.gpu_hour_cost
        cost = 0.0 if price is None else self._gpu_s * price / 3600.0
        if self._reserved:
            key.settle(self._estimate, prompt + generated, cost, now)
        gateway.in_requests -= 1
        gateway.over(
            Record(
                id=self._id.decode("latin-1"),
                at=self._arrived_at,
                key=key.name,
                model="" if live is None else live.name,
                worker=self._served_by,
                cls=self._cls,
                path=self._kind.name,
                status=status,
                stream=self._stream,
                queue_s=queue_s,
                ttft_s=None if self._first_at is None else self._first_at - self._began,
                e2e_s=now - self._began,
                prompt=prompt,
                cached=cached,
                generated=generated,
                finish=finish,
                gpu_s=self._gpu_s,
                cost=cost,
                retries=len(self._tried),
                bytes_out=self._bytes_out,
                error=error,
            )
        )
        if self._admitted_at is not None and live is not None:
            live.queue.done(now)
        self._connection.finished()
