"""`gateway`: the endpoint of the fleet: where it is, how it does; `gateway restart` replaces it."""

from __future__ import annotations

import argparse
from typing import Any

from vllm_console.cli.connect import place_of, print_json
from vllm_console.control.client import Client
from vllm_console.snapshot import Gateway, Snapshot, to_json

SUMMARY = "the endpoint of all models: where it is and how it does; restart it"
RESTART_S = 60.0
"""A new gateway is there in half a second; on a busy machine it may take its time."""
_NONE = "–"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `gateway`."""
    parser.description = (
        "Say how the gateway does. `gateway restart` puts a new process in its place: that one "
        "takes the connections from then on, the old one finishes what it has, and no request is "
        "lost."
    )
    parser.add_argument("what", nargs="?", choices=("status", "restart"), default="status")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print how it does; 1 where it does not run."""
    place = place_of(args)
    client = Client(place.socket, program="gateway", timeout=RESTART_S)
    if args.what == "restart":
        client.command("gateway-restart")
    snapshot = client.snapshot()
    if args.json:
        print_json(
            {"fleet": snapshot.fleet, **to_json(snapshot.gateway), "models": _json(snapshot)}
        )
    else:
        print("\n".join(_lines(snapshot)))
    return 0 if snapshot.gateway.running else 1


def line(gateway: dict[str, Any]) -> str:
    """The gateway of a status object in one line."""
    if not gateway["running"]:
        return f"gateway  {gateway.get('reason') or 'none'}"
    queued = [count for count in gateway["queued"].values() if count is not None]
    words = [
        f"gateway  {gateway['url']}",
        f"{_number(gateway['requests_per_s'])} req/s",
        f"{_number(gateway.get('in_flight'))} in flight",
        f"{sum(queued) if queued else _NONE} queued",
    ]
    if gateway["rejected_per_s"]:
        words.append(f"{_number(gateway['rejected_per_s'])}/s rejected")
    return ", ".join(words)


def _lines(snapshot: Snapshot) -> list[str]:
    gateway = snapshot.gateway
    told = [line(to_json(gateway))]
    if not gateway.running:
        return told
    up = _NONE if gateway.uptime_s is None else f"{gateway.uptime_s:,.0f} s"
    told.append(f"         pid {gateway.pid}, version {gateway.version}, up {up}")
    told += [f"         {text}" for text in _troubles(snapshot, gateway)]
    for model in snapshot.models:
        queued = model.queued
        waiting = f"{_number(queued.high)}/{_number(queued.normal)}/{_number(queued.low)}"
        told.append(
            f"  {model.name}  {model.state}, {model.ready}/{model.wanted} workers, "
            f"{_number(model.in_flight)} in flight, {waiting} waiting (high/normal/low)"
        )
    return told


def _troubles(snapshot: Snapshot, gateway: Gateway) -> list[str]:
    alerts = [alert.text for alert in snapshot.alerts if alert.subject == "gateway"]
    return [*dict.fromkeys([*([gateway.reason] if gateway.reason else []), *alerts])]


def _json(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "name": model.name,
            "state": model.state,
            "ready": model.ready,
            "in_flight": model.in_flight,
            "queued": to_json(model.queued),
            "balancing": model.balancing,
        }
        for model in snapshot.models
    ]


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
