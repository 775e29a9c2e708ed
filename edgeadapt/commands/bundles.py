"""``inspect`` and ``verify`` a bundle, and ``keygen``: a key that signs bundles."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import Bundle, describe, read_bundle, stress_table
from edgeadapt.bundle.schema import GraphSpec, PortSpec
from edgeadapt.commands._arguments import add_bundle_options
from edgeadapt.device.inference.adaptor_family import adaptor_of
from edgeadapt.device.inference.program import Program
from edgeadapt.errors import BundleError, InputError
from edgeadapt.runtime import Runtime, Tensors, open_runtime


def inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="F.edge")
    parser.add_argument("--json", action="store_true")


def inspect(args: argparse.Namespace) -> int:
    """Print what a bundle holds."""
    bundle = read_bundle(args.bundle)
    found = describe(bundle)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    policy, takes, novelty = found["policy"], found["input"], bundle.manifest.policy.novelty
    shape = "x".join(map(str, takes["shape"]))
    print(
        f"{found['name']} version {found['version']}: {found['bytes'] / 2**20:.2f} MiB,"
        f" {found['task']}, format {found['format']}, {_signed(found['signed_by'])}"
    )
    print(
        f"  takes     {takes['layout']} {takes['dtype']} {shape}"
        f" {takes['colour'].replace('none', '')}".rstrip()
    )
    print(
        f"  knows     {', '.join(found['classes'])} ({len(found['classes'])} of"
        f" {found['class_slots']} slots)"
    )
    print(
        f"  features  {found['feature_dim']}, taps {found['tap_dim']}, conditions kept"
        f" {found['domain_slots']}"
    )
    print(
        f"  learns    {policy['learn']['method']}; novelty by {novelty.method}"
        f" ({novelty.judgement})"
    )
    for line in _precisions(found["precisions"]):
        print(f"  {line}")
    print(f"  adapts    {policy['adapt']['mode']}: {policy['adapt']['reason']}")
    width = max(20, *map(len, found["graphs"]))
    for file, graph in found["graphs"].items():
        parity = found["parity"][file]
        print(
            f"  graph     {file:<{width}} {', '.join(graph['roles']):<32} {graph['nodes']:>4} nodes"
            f" {graph['bytes'] / 1024:7.0f} KiB  parity {parity['worst_error']:.1e} over"
            f" {parity['cases']} cases"
        )
    made = found["provenance"]
    versions = f"edgeadapt {made['edgeadapt']}, torch {made['torch']}, onnx {made['onnx']}"
    print(f"  made      {made['created']} with {versions}, seed {made['seed']}")
    print(f"  from      {made['encoder']}{', ' + made['data'] if made['data'] else ''}")
    print(f"  sha256    {found['sha256']}")
    for number, line in enumerate(stress_table(bundle.card)):
        print(f"  {'' if number else 'stress':<9} {line}")
    return 0


def _precisions(found: dict[str, Any]) -> Iterator[str]:
    """A line for each variant of the encoder: what it costs beside float32, on the same held-out
    samples.
    """
    for name, spec in found.items():
        cost = spec["report"]
        yield (
            f"{name:<9} accuracy {cost['accuracy']:.3f} (float32 {cost['float32_accuracy']:.3f}),"
            f" equal answers {cost['agreement']:.3f} of {cost['samples']}, feature error"
            f" {cost['median_error']:.2g} (worst {cost['worst_error']:.2g}), AUROC"
            f" {_mark(cost['auroc'])} ({_mark(cost['float32_auroc'])}), false alarms"
            f" {cost['false_alarms']:.2%} ({cost['float32_false_alarms']:.2%})"
        )


def _mark(auroc: float | None) -> str:
    return "not judged" if auroc is None else f"{auroc:.3f}"


def _signed(signer: str | None) -> str:
    return f"signed by {signer}" if signer else "unsigned"


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="F.edge")
    add_bundle_options(parser)
    parser.add_argument(
        "--engine",
        choices=("tensorrt-rtx",),
        help=(
            "build every graph with this compiler instead of running it (host and rtx extras, no"
            " GPU)"
        ),
    )
    parser.add_argument(
        "--target",
        action="append",
        metavar="sm_XX",
        help="with --engine: GPU family (default: sm_86 and sm_120)",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="with --engine: a table for a document"
    )


def verify(args: argparse.Namespace) -> int:
    """Read with every check, run every graph at every batch size of the ladder and every variant of
    the encoder on its probe; or build it with ``--engine``.
    """
    if args.engine:
        from edgeadapt.commands import engine

        return engine.verify(args)
    if args.target or args.markdown:
        raise InputError("--target and --markdown belong to --engine tensorrt-rtx")
    bundle = read_bundle(args.bundle, trust=args.trust)
    # one at a time: a graph that may move proves nothing of either
    runtime = open_runtime("onnxruntime" if args.runtime == "auto" else args.runtime)
    open_ms = open_graphs(bundle, runtime)
    graphs = run_graphs(bundle, runtime)
    for variant in bundle.manifest.precisions:
        Program(bundle, runtime, variant.precision).check_precision()
    if args.json:
        print(
            json.dumps(
                {
                    "bundle": str(args.bundle),
                    "sha256": bundle.sha256,
                    "signed_by": bundle.signed_by,
                    "runtime": runtime.name,
                    "graphs": graphs,
                    "open_ms": open_ms,
                }
            )
        )
        return 0
    print(
        f"{args.bundle}: {len(bundle.manifest.members)} members match the manifest,"
        f" {_signed(bundle.signed_by)}"
    )
    for file, batches in graphs.items():
        sizes = f" at batch {', '.join(map(str, batches))}" if batches else ""
        print(f"  {file}: opens in {open_ms[file]:.1f} ms and runs in {runtime.name}{sizes}")
    return 0


def keygen_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH")


def keygen(args: argparse.Namespace) -> int:
    """Write a key pair and print the public key."""
    from edgeadapt.bundle.signature import write_keypair

    print(write_keypair(args.path))
    return 0


def open_graphs(bundle: Bundle, runtime: Runtime) -> dict[str, float]:
    """Milliseconds until each graph is ready to run, the first time that this runtime sees it."""
    taken = {}
    for spec in bundle.manifest.graphs:
        file, start = bundle.graph_file(spec), time.perf_counter()
        runtime.load(file)
        taken[spec.file] = round(1000 * (time.perf_counter() - start), 3)
    return taken


def run_graphs(bundle: Bundle, runtime: Runtime) -> dict[str, list[int]]:
    """Every graph on random batches.

    Returns:
        By graph, the batch sizes it ran with; empty for a graph that takes no batch.

    Raises:
        BundleError: a graph does not load, or answers with values that are not finite.
    """
    program = Program(bundle, runtime)
    tensors = program.factory_domain().over(program.factory())
    rng = np.random.default_rng(0)
    ran = {}
    for spec in bundle.manifest.graphs:
        adaptor = adaptor_of(spec, bundle.manifest)
        given = program.adaptors.fresh(adaptor).over(tensors) if adaptor else tensors
        ran[spec.file] = _run_graph(bundle, spec, runtime, given, rng)
    return ran


def _run_graph(
    bundle: Bundle, spec: GraphSpec, runtime: Runtime, tensors: Tensors, rng: np.random.Generator
) -> list[int]:
    graph = runtime.load(bundle.graph_file(spec))
    is_batched = any(None in port.shape for port in spec.ports)
    sizes = [spec.batch] if spec.batch else list(bundle.manifest.batches) if is_batched else []
    for size in sizes or [1]:
        outputs, written = graph(
            {
                port.name: _random(port, size, len(bundle.manifest.classes), rng)
                for port in spec.ports
            },
            tensors,
        )
        for name, value in (outputs | runtime.download(written)).items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise BundleError(
                    f"{bundle.path.name}: {spec.file}: {name} is not finite on a random batch of"
                    f" {size}"
                )
    return sizes


def _random(port: PortSpec, size: int, classes: int, rng: np.random.Generator) -> Any:
    shape = tuple(size if n is None else n for n in port.shape)
    if port.dtype == "float32":
        return rng.random(shape, np.float32)
    return rng.integers(0, 256 if port.dtype == "uint8" else classes, shape).astype(port.dtype)
