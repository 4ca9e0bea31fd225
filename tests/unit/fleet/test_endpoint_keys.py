"""What fleet.toml says of the endpoint: [gateway], limits, shares, and what a mistake costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_console.control.plan import Kind, plan
from vllm_console.fleet.load import FleetError, load_fleet
from vllm_console.fleet.model import Fleet, Limits
from vllm_console.fleet.origins import origins
from vllm_console.fleet.revision import fingerprint

M = '[models.m]\nsource = "s"\n'
WHOLE = """\
[gateway]
enabled = false
port = 0
tls_cert = "tls/cert.pem"
tls_key = "tls/key.pem"
cors = ["https://chat.example", "*"]
access_log = true
[defaults]
on_demand = false
[defaults.limits]
queue = 16
request_timeout = "10m"
[models.m]
source = "s"
weights = { "4" = 10, "5" = 90.5 }
[models.m.limits]
queue_timeout = "5s"
cold_timeout = "1h"
queue_bytes = "1MiB"
body = 1000
max_tokens = 512
concurrency = 8
"""


def load(folder: Path, text: str, *sets: str) -> Fleet:
    (folder / "fleet.toml").write_text(text)
    return load_fleet(folder / "fleet.toml", environ={}, sets=sets)


def test_a_file_may_say_all_of_it(tmp_path: Path) -> None:
    fleet = load(tmp_path, WHOLE)
    gateway, model = fleet.gateway, fleet.models["m"]
    assert (gateway.enabled, gateway.port, gateway.access_log) == (False, 0, True)
    assert (gateway.tls_cert, gateway.tls_key) == (
        tmp_path / "tls/cert.pem",
        tmp_path / "tls/key.pem",
    )
    assert gateway.cors == ("https://chat.example", "*")
    assert (model.on_demand, model.weights) == (False, {4: 10, 5: 90.5})
    assert model.limits == Limits(
        queue=16,
        queue_bytes=1 << 20,
        queue_timeout_s=5.0,
        cold_timeout_s=3600.0,
        request_timeout_s=600.0,
        body=1000,
        max_tokens=512,
        concurrency=8,
    )


def test_every_limit_has_an_origin_and_is_written_as_the_file_writes_it(tmp_path: Path) -> None:
    rows = {key: (value, o.place) for key, value, o in origins(load(tmp_path, WHOLE), "m")}
    assert rows["limits.queue"] == (16, "fleet.toml:11")
    assert rows["limits.queue_timeout"] == ("5s", "fleet.toml:17")
    assert rows["limits.request_timeout"] == ("10m", "fleet.toml:12")
    assert rows["on_demand"] == (False, "fleet.toml:9")
    plain = {key: value for key, value, _ in origins(load(tmp_path, M), "m")}
    assert (plain["limits.cold_timeout"], plain["on_demand"]) == ("10m", True)


def test_a_limit_is_set_on_the_command_line(tmp_path: Path) -> None:
    fleet = load(tmp_path, M, "models.m.limits.queue=3", 'models.m.weights={"2"=1}')
    assert (fleet.models["m"].limits.queue, fleet.models["m"].weights) == (3, {2: 1})


@pytest.mark.parametrize(
    "text",
    ["limits = { queue = 0, concurrency = 1 }\n", 'weights = { "1" = 0 }\n', "on_demand = false\n"],
)
def test_none_of_it_touches_a_worker(tmp_path: Path, text: str) -> None:
    before, after = load(tmp_path, M).models, load(tmp_path, M + text).models
    assert fingerprint(before["m"]) == fingerprint(after["m"])
    (change,) = plan(before, after)
    assert change.kind is Kind.UPDATE


def test_a_watched_server_takes_limits_too(tmp_path: Path) -> None:
    text = '[models.m]\nengine = "attach"\nurl = "http://h:1"\nlimits.queue = 2\n'
    assert load(tmp_path, text).models["m"].limits.queue == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gateway]\nport = 70000", "fleet.toml:2: gateway.port: must be at most 65535"),
        (
            "[gateway]\nenabled = 'yes'",
            'fleet.toml:2: gateway.enabled: must be true or false, not "yes"',
        ),
        ("[gateway]\ntls_cert = 'c'", "fleet.toml:2: gateway.tls_cert: needs its key too"),
        ("[gateway]\ntls_key = 'c'", "fleet.toml:2: gateway.tls_key: needs its certificate too"),
        (
            "[gateway]\ncors = ['chat.example']",
            'fleet.toml:2: gateway.cors.0: "chat.example" is no origin; write scheme and host',
        ),
        (
            M + "limits = { que = 1 }",
            'fleet.toml:3: models.m.limits.que: unknown key; did you mean "queue"?',
        ),
        (M + "limits.queue = -1", "fleet.toml:3: models.m.limits.queue: must be at least 0"),
        (M + "limits.body = 0", "fleet.toml:3: models.m.limits.body: must be at least 1"),
        (M + "limits.body = '1 dog'", 'models.m.limits.body: "1 dog" is not a size'),
        (M + "limits.queue_timeout = 5", "models.m.limits.queue_timeout: must be a text with a"),
        (M + "limits.concurrency = 0", "models.m.limits.concurrency: must be at least 1"),
        (M + "weights = { four = 1 }", 'models.m.weights: "four" is no revision; write'),
        (M + "weights = { '4' = -1 }", "models.m.weights.4: must be at least 0"),
        (M + "on_demand = 1", "fleet.toml:3: models.m.on_demand: must be true or false, not 1"),
        (M + "[defaults]\nweights = { '4' = 1 }", "fleet.toml:4: defaults.weights: is said by"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FleetError) as raised:
        load(tmp_path, text)
    (problem,) = raised.value.problems
    assert said in str(problem)
