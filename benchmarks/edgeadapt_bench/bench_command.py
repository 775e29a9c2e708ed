"""``edgeadapt bench``: run a suite by name."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeadapt.errors import InputError
from edgeadapt_bench import suites
from edgeadapt_bench.suites import SUITES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of every suite; a suite refuses what it has not."""
    parser.add_argument("suite", metavar="SUITE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with the four Fashion-MNIST files"
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="also draw pictures there, if the suite has any (bench extra)",
    )
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="get the data that it needs and that are not here (edgeadapt data list)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small, and most rows without a target; 'bench list' names the suites that have it",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help=(
            "steps: also JAX, onnxruntime-training, ExecuTorch and LiteRT, which it installs apart"
        ),
    )
    parser.add_argument(
        "--passes", action="store_true", help="steps: what each rewrite pass gains instead"
    )
    parser.add_argument(
        "--members",
        action="store_true",
        help="shift: every label-free method that a bundle can carry instead",
    )
    parser.add_argument(
        "--networks", action="store_true", help="precision: encoders of other networks instead"
    )
    parser.add_argument(
        "--validation",
        action="store_true",
        help="transfer, gain: the twins that settings are chosen on, instead",
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="F.edge", help="placement, precision: measure this bundle"
    )
    parser.add_argument(
        "--foreign",
        action="store_true",
        help="shift: on an encoder that never saw the data instead",
    )


def run(args: argparse.Namespace) -> int:
    """Run a suite; 1 if a row misses its target."""
    if args.suite == "list":
        for name, suite in SUITES.items():
            switches = ", ".join(f"--{option}" for option in suite.options)
            print(f"{name:<14} {suite.summary}{'; ' if switches else ''}{switches}")
        return 0
    if args.suite not in SUITES:
        raise InputError(f"no suite called {args.suite!r}; suites: {', '.join(SUITES)}")
    options = tuple(
        name
        for name in ("quick", "peers", "passes", "members", "foreign", "networks", "validation")
        if getattr(args, name)
    )
    result = suites.run(
        args.suite,
        data=args.data,
        json_path=args.json,
        options=options,
        plots=args.plots,
        bundle=args.bundle,
        fetch=args.fetch,
    )
    return 1 if any(row["holds"] is False for row in result["rows"]) else 0
