"""What the entry points of the benchmark share: options, and words to the terminal."""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def add_common(parser: argparse.ArgumentParser, variants: list[str], idle_clients: int) -> None:
    """`idle_clients`: the default number."""
    listed = ",".join(variants)
    parser.add_argument("--rounds", type=_odd, default=5, help="odd number of rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=3, help="about the length of one run (default 3)")
    parser.add_argument("--clients", type=int, default=50, help="clients of a run (default 50)")
    parser.add_argument("--only", type=names_of(variants), default=variants, help=f"of {listed} (default all)")
    parser.add_argument(
        "--idle-clients", type=int, default=idle_clients, help=f"idle clients (default {idle_clients})"
    )
    parser.add_argument("--respgate", type=Path, default=ROOT / "target/release/respgate", help="respgate's binary")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def names_of(known: list[str]):
    """A type of option: some of `known`, with commas."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"none is called {', '.join(unknown)}; there are {', '.join(known)}")
        return chosen

    return names


def warn_if_busy() -> None:
    """Other work on the cores changes how much arrives per turn, and with it the CPU per command."""
    load_average, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load_average > cores / 4:
        print(f"bench: other work runs here (load {load_average:.1f}, {cores} cores): expect noise", file=sys.stderr)


def say(line: str) -> None:
    """Progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _odd(text: str) -> int:
    value = int(text)
    if value < 1 or value % 2 == 0:
        raise argparse.ArgumentTypeError("must be odd, so that the median is one of the rounds")
    return value
