"""Serve a run's student over HTTP: `python -m pipelines.serve_student runs/NAME [--host HOST] [--port PORT] ...`."""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pipelines.cluster.address import named
from pipelines.config.errors import ConfigError, complain

if TYPE_CHECKING:
    from pipelines.cluster.endpoint import Served


def main(arguments: Sequence[str]) -> int:
    """Parse, check, serve until interrupted. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_args(arguments)
    # here, so that --help needs neither torch nor Ray
    from pipelines.cluster.endpoint import endpoint_settings, find_served, start_endpoint, stop_endpoint
    from pipelines.cluster.waiting import waiting_for
    from services.applications import HttpAddress
    from services.gate import token_digest

    console, complaints = Console(markup=False), Console(markup=False, stderr=True)
    try:
        served = find_served(options.run, not options.without_experts, options.replicas)
        settings = endpoint_settings(
            served,
            queue=options.queue,
            timeout_s=options.timeout,
            most_bytes=options.max_body * 2**20,
            digest=token_digest(_token(options.token)) if options.token else None,
        )
        _connect(served, options, console)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        try:
            with waiting_for(f"{', '.join(served.models)} to load", console.print):
                start_endpoint(served, settings, HttpAddress(options.host, options.port))
            _announce(served, options, console, complaints)
            stop.wait()
        finally:
            stop_endpoint(served)
    except (ConfigError, RuntimeError) as error:
        complain(error)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.serve_student", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder; its newest complete checkpoint is served")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; default: this machine alone")
    parser.add_argument("--port", type=_between(1, 65535), default=8100)
    parser.add_argument("--token", metavar="ENV_OR_FILE", help="variable or file that holds the bearer token to ask for")
    parser.add_argument("--without-experts", action="store_true", help="serve the student alone")
    parser.add_argument("--replicas", type=_between(1, 1000), default=1, help="of the student; default 1")
    parser.add_argument("--queue", type=_between(1, 10_000), default=32, help="most requests at a time; default 32")
    parser.add_argument("--timeout", type=_between(1, 86_400), default=120, metavar="SECONDS", help="of a request; default 120")
    parser.add_argument("--max-body", type=_between(1, 1024), default=16, metavar="MIB", help="of a request; default 16")
    parser.add_argument("--address", help="of a running Ray cluster; default: RAY_ADDRESS, else start one in this process")
    return parser


def _between(low: int, high: int):
    def number(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return number


def _token(source: str) -> str:
    """The token itself never stands in a command line, where every user of the machine can read it."""
    if source in os.environ:
        token = os.environ[source]
    elif Path(source).is_file():
        token = Path(source).read_text(encoding="utf-8")
    else:
        raise ConfigError(f"--token: {source!r} is neither an environment variable nor a file")
    if not token.strip():
        raise ConfigError(f"--token: {source!r} is empty")
    return token.strip()


def _connect(served: "Served", options: argparse.Namespace, console: Console) -> None:
    """Connect to Ray, or start it; then compare what is asked for with what there is."""
    import ray
    import torch

    from pipelines.cluster import connect
    from pipelines.cluster.demands import check_demands

    address = named(options.address)
    if not address:
        check_demands(served.demands(), os.cpu_count() or 1, torch.cuda.device_count(), "this machine")
        _check_free(options.host, options.port)
    connect.join_or_start(address, partial(console.print, highlight=False, soft_wrap=True, markup=False))
    if address:
        total = ray.cluster_resources()
        check_demands(served.demands(), total.get("CPU", 0), total.get("GPU", 0), "the cluster")


def _check_free(host: str, port: int) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}; choose another") from error


def _announce(served: "Served", options: argparse.Namespace, console: Console, complaints: Console) -> None:
    address = f"http://{options.host}:{options.port}"
    console.print(f"serving {', '.join(served.models)} of {options.run}, step {served.step}", highlight=False, soft_wrap=True)
    console.print(f"page: {address}/   OpenAI base URL: {address}/v1   stop: Ctrl-C", highlight=False, soft_wrap=True)
    if not options.token and not _is_loopback(options.host):
        complaints.print(f"warning: {options.host} is reachable from other machines and asks for no --token", style="yellow")


def _is_loopback(host: str) -> bool:
    return host == "::1" or socket.gethostbyname(host).startswith("127.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
