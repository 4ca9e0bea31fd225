"""`web`: the console in a browser, on this machine and read-only unless told otherwise."""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
from ipaddress import ip_address

from vllm_console.cli.connect import place_of
from vllm_console.errors import ConsoleError, InvalidInput

SUMMARY = "the console in a browser, read-only"
_MISSING = (
    "the console in a browser needs textual-serve, which is not installed: "
    "pip install 'vllm-console[web]'"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `web`."""
    parser.description = (
        "Serve the console to browsers until Ctrl-C; each page is a console of its own. There is "
        "no password: whoever reaches the port sees the fleet. Hence 127.0.0.1, and read-only; "
        "from elsewhere, `ssh -L 8000:127.0.0.1:8000 HOST`."
    )
    parser.add_argument("--port", type=int, default=8000, help="where to listen (default 8000)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)"
    )
    parser.add_argument(
        "--allow-commands", action="store_true", help="let pages load, unload and restart models"
    )
    parser.add_argument("--theme", metavar="NAME", help="console-night, console-day, nord, …")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if not 1 <= args.port <= 65535:
        raise InvalidInput(f"--port {args.port}: takes 1 to 65535")
    place_of(args)  # a wrong fleet is told here, not in the browser
    try:
        from vllm_console.ui.browser import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual_serve":
            raise
        raise ConsoleError(_MISSING) from None
    from vllm_console.ui.theme import DEFAULT
    from vllm_console.ui.theme_files import chosen, themes_dir

    chosen(args.theme or DEFAULT, themes_dir())  # a wrong one too
    _check_free(args.host, args.port)
    if not is_loopback(args.host):
        what = "see and change" if args.allow_commands else "see"
        print(
            f"vllm-console: {args.host} is reached from other machines and there is no password: "
            f"whoever reaches port {args.port} can {what} this fleet",
            file=sys.stderr,
        )
    print(
        f"http://{_shown(args.host)}:{args.port}  (Ctrl-C ends it; the fleet goes on)", flush=True
    )
    serve(shlex.join(console_command(args)), args.host, args.port)
    return 0


def console_command(args: argparse.Namespace) -> list[str]:
    """The command line of the console that each page shows."""
    words = [sys.executable, "-m", "vllm_console", "console"]
    words += [] if args.allow_commands else ["--readonly"]
    for option in ("fleet", "state_dir", "theme"):
        if (value := getattr(args, option)) is not None:
            words += [f"--{option.replace('_', '-')}", os.fspath(value)]
    for text in args.set:
        words += ["--set", text]
    return words


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_free(host: str, port: int) -> None:
    """Raise `InvalidInput` where nobody can listen, before anything is started."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise InvalidInput(f"cannot listen on {host} port {port}: {reason}; see --port") from None
