"""`python -m standin [--port N] [--key K] [--refuse WHAT]...`: serve until standard input ends."""

from __future__ import annotations

import argparse
import sys

from standin import StandIn


def main() -> None:
    """Print the address, then serve until whoever started this goes away."""
    parser = argparse.ArgumentParser(prog="standin", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key")
    parser.add_argument("--refuse", action="append", default=[])
    given = parser.parse_args()
    with StandIn(port=given.port, key=given.key, refused=given.refuse) as api:
        print(api.url, flush=True)  # noqa: T201 - whoever started this reads it
        sys.stdin.read()


if __name__ == "__main__":
    main()
