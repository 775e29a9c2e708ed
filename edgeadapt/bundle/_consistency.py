"""What the parts of a manifest must say about each other, beyond the types and bounds of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeadapt.bundle.roles import ROLES
from edgeadapt.errors import BundleError

if TYPE_CHECKING:
    from edgeadapt.bundle.schema import GraphSpec, Manifest, TensorSpec

_MAY_BE_ABSENT = {"taps", "receipt"}  # an encoder without early layers has no taps, and sums give no receipt


def check_consistency(manifest: Manifest) -> None:
    """Names are unique and declared, classes fit, graphs answer the roles that they claim, receipts can be redeemed.

    Raises:
        BundleError: names the part that contradicts another.
    """
    known: set[str] = set()
    for spec in manifest.tensors:
        if spec.name in known:
            raise BundleError(f"manifest.json: tensor {spec.name!r} is declared twice")
        known.add(spec.name)
    if len(manifest.classes) > manifest.class_slots:
        raise BundleError(f"manifest.json: {len(manifest.classes)} classes do not fit into {manifest.class_slots} class slots")
    if len(set(manifest.classes)) != len(manifest.classes):
        raise BundleError("manifest.json: a class is named twice")
    for graph in manifest.graphs:
        _check_graph(graph, known)
    for numeric in manifest.numerics:
        missing = sorted({*numeric.reads, *numeric.writes} - known)
        if missing:
            raise BundleError(f"manifest.json: the numeric {numeric.numeric!r} uses the undeclared tensor {missing[0]!r}")
    for spec in manifest.tensors:
        if spec.class_axis is not None and not 0 <= spec.class_axis < len(spec.shape):
            raise BundleError(f"manifest.json: {spec.name} has class_axis {spec.class_axis} outside its shape {spec.shape}")
        if spec.receipt:
            _check_receipt(spec, manifest.graphs)


def _check_graph(graph: GraphSpec, known: set[str]) -> None:
    outputs, writes = {port.name for port in graph.outputs}, bool(graph.writes)
    for role in graph.roles:
        absent = sorted(set(ROLES[role].outputs) - outputs - _MAY_BE_ABSENT)
        if absent or ROLES[role].writes_tensors > writes:
            lacks = f"output {absent[0]!r}" if absent else "tensor that it writes"
            raise BundleError(f"manifest.json: {graph.file} claims the role {role!r} but has no {lacks}")
    missing = sorted({*graph.reads, *graph.writes, *graph.frozen} - known)
    if missing:
        raise BundleError(f"manifest.json: {graph.file} uses the undeclared tensor {missing[0]!r}")


def _check_receipt(spec: TensorSpec, graphs: tuple[GraphSpec, ...]) -> None:
    """A receipt is given when the tensor learns, and can be redeemed."""
    if spec.kind != "evidence":
        raise BundleError(f"manifest.json: {spec.name} has receipt = true, but its kind is {spec.kind}; only evidence can be taken back")
    if not any("redeem" in graph.roles and spec.name in graph.writes for graph in graphs):
        raise BundleError(f"manifest.json: {spec.name} has receipt = true, but no graph with the role 'redeem' writes it")
    for graph in graphs:
        if "learn" in graph.roles and spec.name in graph.writes and all(port.name != "receipt" for port in graph.outputs):
            raise BundleError(f"manifest.json: {spec.name} has receipt = true, but {graph.file} learns it without the output 'receipt'")
