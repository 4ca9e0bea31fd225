"""`metrics`: the fleet as Prometheus text, and what goes with it into Prometheus and Grafana."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files

from vllm_console.cli.connect import client_of

SUMMARY = "the fleet as Prometheus text; --dashboard and --rules for Grafana and alerts"
_SHIPPED = {"dashboard": "grafana.json", "rules": "rules.yml"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `metrics`."""
    parser.description = (
        "Print what the daemon's /metrics answers: models, workers, requests, latency histograms "
        "and GPUs in Prometheus text. To have it scraped, set `port` in [metrics] of fleet.toml: "
        "then http://127.0.0.1:PORT/metrics answers too."
    )
    shipped = parser.add_mutually_exclusive_group()
    shipped.add_argument(
        "--dashboard",
        dest="shipped",
        action="store_const",
        const="dashboard",
        help="print a Grafana dashboard over these metrics instead (JSON)",
    )
    shipped.add_argument(
        "--rules",
        dest="shipped",
        action="store_const",
        const="rules",
        help="print example alert rules for Prometheus instead (YAML)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the metrics, or a file that ships with the console; that needs no daemon."""
    if args.shipped:
        shipped = files("vllm_console.control") / "monitoring" / _SHIPPED[args.shipped]
        sys.stdout.write(shipped.read_text(encoding="utf-8"))
    else:
        sys.stdout.write(client_of(args).metrics())
    return 0
