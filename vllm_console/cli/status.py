"""`status`: how the fleet is. `--json` imports next to nothing, so that scripts may poll it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from vllm_console.cli.connect import place_of
from vllm_console.cli.gateway import line as gateway_line
from vllm_console.control.client import Client
from vllm_console.errors import NoDaemon

SUMMARY = "how the fleet is: a table, --json, --watch, --check"
_NONE = "–"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `status`."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object, vllm-console/status/1")
    form.add_argument("--schema", action="store_true", help="the JSON Schema of --json")
    parser.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 unless every wanted worker is ready"
    )


def run(args: argparse.Namespace) -> int:
    """Print the fleet's state; without a daemon exit 3."""
    if args.schema:
        from importlib.resources import files

        print(files("vllm_console.control").joinpath("status.schema.json").read_text("utf-8"))
        return 0
    place = place_of(args)
    client = Client(place.socket)
    while True:
        try:
            raw = client.snapshot_json()
        except NoDaemon:
            if args.json:
                _write_json(_no_daemon(place.name))
            raise
        status = json.loads(raw)
        if args.json:
            _write_json(status, raw)
        else:
            clear = "\x1b[H\x1b[2J" if args.watch and sys.stdout.isatty() else ""
            print(clear + table(status), flush=True)
        if not args.watch:
            return 1 if args.check and not healthy(status) else 0
        time.sleep(1.0)


def healthy(status: dict[str, Any]) -> bool:
    """Whether every wanted worker is ready, or asleep, and none has failed."""
    return all(
        model["ready"] + sum(w["state"] == "asleep" for w in model["workers"]) >= model["wanted"]
        and not any(w["state"] in ("failed", "crash-loop", "stalled") for w in model["workers"])
        for model in status["models"]
    )


def _write_json(status: dict[str, Any], raw: bytes | None = None) -> None:
    if sys.stdout.isatty() or raw is None:
        print(json.dumps(status, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))
    else:
        sys.stdout.write(raw.decode() + "\n")
    sys.stdout.flush()


def _no_daemon(name: str) -> dict[str, Any]:
    from vllm_console.control.events import now_iso
    from vllm_console.snapshot import Daemon, Snapshot, to_json

    return dict(to_json(Snapshot(at=now_iso(), fleet=name, daemon=Daemon(running=False))))


def table(status: dict[str, Any]) -> str:
    """The fleet as aligned text: one line a model, and one a worker where there are several."""
    daemon = status["daemon"]
    uptime = _duration(daemon["uptime_s"])
    lines = [f"{status['fleet']}  daemon pid {daemon['pid']}, up {uptime}", ""]
    rows: list[tuple[str, ...]] = [
        ("MODEL", "STATE", "READY", "KV", "RUN", "WAIT", "TOK/S", "REQ/S", "TTFT P95", "URL")
    ]
    for model in status["models"]:
        load = model["load"]
        single = model["workers"][0] if len(model["workers"]) == 1 else None
        ready = f"{model['ready']}/{model['wanted']}"
        url = (single or {}).get("url") or ""
        rows.append((model["name"], _state(single or model), ready, *_numbers(load), url))
        if single is None:
            for worker in model["workers"]:
                name = f"  {worker['id']}{_tried(model, worker)}"
                row = (name, _state(worker), "", *_numbers(worker))
                rows.append((*row, worker["url"] or ""))
    lines += _align(rows)
    if not status["models"]:
        lines.append("no models: list one in fleet.toml as [models.NAME]")
    lines.append("")
    lines.append(gateway_line(status["gateway"]))
    if status["gpus"]:
        rows = [("GPU", "NAME", "BUSY", "GIB", "°C", "W")]
        for gpu in status["gpus"]:
            rows.append(
                (
                    str(gpu["index"]),
                    gpu["name"],
                    _percent(gpu["utilization"]),
                    f"{_gib(gpu['memory_used_bytes'])}/{_gib(gpu['memory_total_bytes'])}",
                    _whole(gpu["temperature_c"]),
                    _whole(gpu["power_w"]),
                )
            )
        lines += _align(rows)
    else:
        lines.append(f"GPUs: {status['gpus_reason'] or 'none'}")
    for alert in status["alerts"]:
        lines.append(
            f"{'✖' if alert['level'] == 'crit' else '▲'} {alert['subject']}: {alert['text']}"
        )
    for model in status["models"]:
        for worker in model["workers"]:
            if worker["failure"] and worker["state"] in ("failed", "crash-loop", "backoff"):
                failure = worker["failure"]
                lines.append(f"  {worker['id']}: {failure['line']}")
                lines.append(f"  {' ' * len(worker['id'])}  → {failure['remedy']}")
            elif worker["reason"] and worker["state"] in ("queued", "stalled", "asleep"):
                lines.append(f"  {worker['id']}: {worker['reason']}")
    return "\n".join(lines)


def _tried(model: dict[str, Any], worker: dict[str, Any]) -> str:
    """Revision and share of a canary."""
    canary = model.get("canary")
    if canary is None or canary["worker"] != worker["id"]:
        return ""
    return f" (r{canary['revision']}, {canary['share'] * 100:.3g} %)"


def _state(thing: dict[str, Any]) -> str:
    state = str(thing["state"])
    if state == "starting" and thing.get("stage"):
        progress = thing["progress"]
        percent = f" {progress:.0%}" if progress is not None else ""
        return f"{state} ({thing['stage']}{percent})"
    return state


def _numbers(load: dict[str, Any]) -> tuple[str, ...]:
    ttft = load["latency"]["ttft_s"].get("p95")
    return (
        _percent(load["kv_cache_usage"]),
        _whole(load["running"]),
        _whole(load["waiting"]),
        _whole(load["generation_tokens_per_s"]),
        _NONE if load["requests_per_s"] is None else f"{load['requests_per_s']:.1f}",
        _NONE if ttft is None else f"{ttft * 1e3:,.0f} ms",
    )


def _align(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = {0, 1, len(widths) - 1}
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0%}"


def _whole(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"


def _gib(value: int | None) -> str:
    return _NONE if value is None else f"{value / 2**30:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
