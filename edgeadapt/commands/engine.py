"""``verify --engine``: build every graph of a bundle with a GPU's compiler. Nothing is run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.errors import CompileError


@dataclass(frozen=True)
class Row:
    """One graph built for one GPU family, or why not."""

    graph: str
    target: str
    seconds: float = 0.0
    layers: int = 0
    plan_kib: int = 0
    peak_mib: int = 0
    error: str = ""

    def line(self) -> str:
        """For people."""
        found = (
            f"{self.seconds:6.2f} s  {self.plan_kib:7d} KiB  {self.layers:5d} layers"
            if not self.error
            else f"FAILED  {self.error}"
        )
        return f"  {self.graph:<20} {self.target:<7} {found}"

    def cells(self) -> str:
        """For a table in a document."""
        found = (
            f"{self.layers} | {self.plan_kib} | {self.seconds:.2f}"
            if not self.error
            else f"– | – | {self.error}"
        )
        return f"| `{self.graph}` | {self.target} | {found} |"


def verify(args: argparse.Namespace) -> int:
    """Read with every check, then build every graph for every target.

    Returns:
        1 if a graph did not build.
    """
    from edgeadapt.host.compile.engine import DEFAULT_TARGETS, check_available

    targets = args.target or DEFAULT_TARGETS
    check_available(targets)
    bundle = read_bundle(args.bundle, trust=args.trust)
    rows = []
    if args.markdown:
        print(
            "| graph | target | layers | plan KiB | seconds |\n|---|---|---:|---:|---:|", flush=True
        )
    elif not args.json:
        print(f"{args.bundle}: builds with {args.engine}; nothing is run", flush=True)
    for row in build_graphs(bundle, targets):
        rows.append(row)
        if not args.json:
            print(row.cells() if args.markdown else row.line(), flush=True)
    failed = sum(bool(row.error) for row in rows)
    if args.json:
        print(
            json.dumps(
                {
                    "bundle": str(args.bundle),
                    "sha256": bundle.sha256,
                    "engine": args.engine,
                    "builds": [vars(row) for row in rows],
                }
            )
        )
    elif not args.markdown:
        print(f"{len(rows) - failed} of {len(rows)} builds succeeded")
    return 1 if failed else 0


def build_graphs(bundle: Bundle, targets: Sequence[str], **options: Any) -> Iterator[Row]:
    """Build every graph of a bundle for every target.

    Args:
        bundle: from :func:`edgeadapt.bundle.read_bundle`.
        targets: see :data:`edgeadapt.host.compile.engine.TARGETS`.
        options: of :func:`edgeadapt.host.compile.engine.build`.

    Raises:
        InputError: a target that the compiler does not know.
        RuntimeUnavailable: the compiler is not installed.
    """
    from edgeadapt.host.compile.engine import build

    for spec in bundle.manifest.graphs:
        file = bundle.graph_file(spec)
        for target in targets:
            try:
                built = build(
                    spec.file,
                    file.model,
                    file.frozen,
                    target=target,
                    batches=bundle.manifest.batches,
                    **options,
                )
            except CompileError as error:
                yield Row(
                    spec.file,
                    target,
                    error=" ".join(str(error).removeprefix(f"{spec.file}: ").split()),
                )
            else:
                yield Row(
                    spec.file,
                    target,
                    built.seconds,
                    built.layers,
                    len(built.plan) >> 10,
                    round(built.peak_memory_mib),
                )
