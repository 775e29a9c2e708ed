"""``runtimes`` and ``bench``: what can run on this machine, and what it reaches."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from edgeadapt.errors import InputError
from edgeadapt.runtime import available_runtimes


def runtimes(args: argparse.Namespace) -> int:
    """List the registered runtimes; exit code 5 if none can run. One on a GPU is available only if it has just computed something there."""
    found = available_runtimes()
    if args.json:
        print(json.dumps([asdict(status) for status in found], indent=2))
    else:
        for status in found:
            print(f"{status.name:<20} {'ok' if status.is_available else 'not available':<13}  {status.detail.removeprefix('RuntimeUnavailable: ')}")
    return 0 if any(status.is_available for status in found) else 5


def bench(args: argparse.Namespace) -> int:
    """Run a suite; 1 if a row misses its target."""
    suites, run = _suites()
    if args.suite == "list":
        for name, summary in suites.items():
            print(f"{name:<14} {summary}".rstrip())
        return 0
    if args.suite not in suites:
        raise InputError(f"no suite called {args.suite!r}; suites: {', '.join(suites)}")
    options = tuple(name for name in ("quick", "peers", "passes", "members", "foreign", "networks", "validation") if getattr(args, name))
    result = run(
        args.suite, data=args.data, json_path=args.json, options=options, plots=args.plots,
        bundle=args.bundle, fetch=args.fetch,
    )  # fmt: skip
    return 1 if any(row["holds"] is False for row in result["rows"]) else 0


def _suites() -> tuple[dict[str, str], Callable[..., dict[str, Any]]]:
    """Names with one line each, and how to run one."""
    if importlib.util.find_spec("edgeadapt.bench.suites") is None:
        raise InputError("this installation has no bench suites")
    suites = importlib.import_module("edgeadapt.bench.suites")
    return {name: _summary(suite) for name, suite in suites.SUITES.items()}, suites.run


def _summary(suite: Any) -> str:
    return suite if isinstance(suite, str) else (getattr(suite, "__doc__", None) or "").strip().partition("\n")[0]
