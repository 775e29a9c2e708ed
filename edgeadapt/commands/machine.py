"""``runtimes``: what can run on this machine."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from edgeadapt.runtime import available_runtimes


def runtimes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")


def runtimes(args: argparse.Namespace) -> int:
    """List the registered runtimes; exit code 5 if none can run. One on a GPU is available only if
    it has just computed something there.
    """
    found = available_runtimes()
    if args.json:
        print(json.dumps([asdict(status) for status in found], indent=2))
    else:
        for status in found:
            print(
                f"{status.name:<20} {'ok' if status.is_available else 'not available':<13} "
                f" {status.detail.removeprefix('RuntimeUnavailable: ')}"
            )
    return 0 if any(status.is_available for status in found) else 5
