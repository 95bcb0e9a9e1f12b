"""How a user says which Ray cluster a command is for. Without Ray: a command reads its options before it imports that."""

import argparse
import os


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of commands that add processes to what runs on a cluster."""
    parser.add_argument("--address", help="of the Ray cluster; default: RAY_ADDRESS, else one on this machine")
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="for a busy or growing cluster; default: refuse at once"
    )


def named(address: str | None) -> str | None:
    """The cluster that the user names, by `--address` or by RAY_ADDRESS; None if nothing is named."""
    return address or os.environ.get("RAY_ADDRESS") or None
