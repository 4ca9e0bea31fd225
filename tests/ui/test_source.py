"""The reader: snapshots in order, the past once a connection, and a daemon that goes and comes."""

from __future__ import annotations

from threading import Event as Flag

from tests.ui.scripted import GoneClient, LabFleet, ScriptedClient
from vllm_console.errors import ConsoleError, NoDaemon
from vllm_console.snapshot import Snapshot
from vllm_console.ui.source import BACK_OFF_S, FleetClient, Reader


class News:
    """A fake console: counts what the reader tells it and lets a test wait for it."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.items: list[object] = []
        self._flag = Flag()
        reader.notify = self._flag.set

    def until(self, count: int) -> list[object]:
        for _ in range(100):
            self.items += self.reader.drain()
            if len(self.items) >= count:
                return self.items
            self._flag.wait(0.1)
            self._flag.clear()
        raise AssertionError(f"only {len(self.items)} of {count}")


def test_the_first_snapshot_comes_before_the_past_and_the_rest_after() -> None:
    client = ScriptedClient(history=5)
    reader = Reader(lambda: client)
    news = News(reader)
    first, second = client.fleet.at(1), client.fleet.at(2)
    client.push(first, second)
    reader.start()
    items = news.until(3)
    reader.close()
    assert items[0] is first
    assert isinstance(items[1], dict)
    assert items[2] is second
    assert client.closed


def test_a_daemon_without_a_past_leaves_the_graphs_empty() -> None:
    class Forgetful(ScriptedClient):
        def series(self, *args: object) -> dict[str, dict[str, list[float | None]]]:
            raise ConsoleError("no history here")

    client = Forgetful(LabFleet(models=2))
    reader = Reader(lambda: client)
    news = News(reader)
    client.push(client.fleet.at(1), client.fleet.at(2))
    reader.start()
    items = news.until(2)
    reader.close()
    assert all(isinstance(item, Snapshot) for item in items)


def test_it_backs_off_and_comes_back_by_itself() -> None:
    waits: list[float] = []
    alive = ScriptedClient(history=5)
    clients: list[FleetClient] = [GoneClient() for _ in range(7)]
    last: list[str | None] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        last.append(reader.lost)
        return False

    reader = Reader(lambda: clients.pop(0) if clients else alive, wait)
    news = News(reader)
    alive.push(alive.fleet.at(1))
    reader.start()
    news.until(2)
    assert reader.lost is None
    assert waits == [*BACK_OFF_S, BACK_OFF_S[-1], BACK_OFF_S[-1]]
    assert all(reason is not None and "no daemon answers" in reason for reason in last)
    reader.close()


def test_a_stream_that_ends_or_breaks_is_tried_again_from_the_shortest_wait() -> None:
    waits: list[float] = []
    client = ScriptedClient(history=5)
    one, two, three = (client.fleet.at(t) for t in (1, 2, 3))
    client.push(one, None, two, NoDaemon("it went away"), three)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    reader = Reader(lambda: client, wait)
    news = News(reader)
    reader.start()
    items = [item for item in news.until(6) if isinstance(item, Snapshot)]
    assert items == [one, two, three]
    assert waits == [BACK_OFF_S[0]] * 2
    reader.close()


def test_closing_before_anything_came_ends_the_thread() -> None:
    client = ScriptedClient()
    reader = Reader(lambda: client)
    started = [reader.started]
    reader.start()
    started.append(reader.started)
    reader.close()
    reader.close()
    assert started == [False, True]
    assert client.closed
