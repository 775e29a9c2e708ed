"""What the parts of a manifest must say about each other, beyond the types and bounds of each."""

from __future__ import annotations

from collections.abc import Iterator

from edgeadapt.bundle.roles import ROLES, RoleName
from edgeadapt.bundle.schema import GraphSpec, Manifest
from edgeadapt.errors import BundleError

# an encoder without early layers has no taps, and sums give no receipt
_MAY_BE_ABSENT = {"taps", "receipt"}


def check_consistency(manifest: Manifest) -> None:
    """Names are unique and declared, classes fit, graphs answer the roles that they claim, receipts
    can be redeemed.

    Raises:
        BundleError: names the part that contradicts another.
    """
    for fault in _faults(manifest):
        raise BundleError(f"manifest.json: {fault}")


def _faults(manifest: Manifest) -> Iterator[str]:
    known: set[str] = set()
    for spec in manifest.tensors:
        if spec.name in known:
            yield f"tensor {spec.name!r} is declared twice"
        known.add(spec.name)
    if len(manifest.classes) > manifest.class_slots:
        yield (
            f"{len(manifest.classes)} classes do not fit into {manifest.class_slots} class slots"
        )
    if len(set(manifest.classes)) != len(manifest.classes):
        yield "a class is named twice"
    for graph in manifest.graphs:
        yield from _graph_faults(graph, known)
    width = sum(manifest.policy.shift.groups)
    for graph in manifest.graphs_for("shift"):
        for port in graph.outputs:
            if port.name == "residual" and port.shape != (None, width):
                yield (
                    f"{graph.file} gives residuals {port.shape}, the groups of"
                    f" policy.shift add up to {width}"
                )
    for numeric in manifest.numerics:
        missing = sorted({*numeric.reads, *numeric.writes} - known)
        if missing:
            yield f"the numeric {numeric.numeric!r} uses the undeclared tensor {missing[0]!r}"
    for spec in manifest.tensors:
        if spec.class_axis is not None and not 0 <= spec.class_axis < len(spec.shape):
            yield f"{spec.name} has class_axis {spec.class_axis} outside its shape {spec.shape}"
    yield from _receipt_faults(manifest)
    yield from _adaptor_faults(manifest)
    yield from _precision_faults(manifest)


def _graph_faults(graph: GraphSpec, known: set[str]) -> Iterator[str]:
    outputs, writes = {port.name for port in graph.outputs}, bool(graph.writes)
    for role in graph.roles:
        absent = sorted(set(ROLES[role].outputs) - outputs - _MAY_BE_ABSENT)
        if absent or ROLES[role].writes_tensors > writes:
            lacks = f"output {absent[0]!r}" if absent else "tensor that it writes"
            yield f"{graph.file} claims the role {role!r} but has no {lacks}"
    missing = sorted({*graph.reads, *graph.writes, *graph.frozen} - known)
    if missing:
        yield f"{graph.file} uses the undeclared tensor {missing[0]!r}"


def _adaptor_faults(manifest: Manifest) -> Iterator[str]:
    """Each candidate has its graphs, and tensors that a condition can hold and that no other part
    shares.
    """
    scopes = {spec.name: (spec.scope, spec.kind, spec.persist) for spec in manifest.tensors}
    names = [candidate.name for candidate in manifest.policy.growth.candidates]
    if len(set(names)) != len(names):
        yield "two adaptors of policy.growth have the same name"
    for candidate in manifest.policy.growth.candidates:
        for name in candidate.tensors:
            if not name.startswith(f"{candidate.name}.") or scopes.get(name) != (
                "domain",
                "parameter",
                "checkpoint",
            ):
                yield (
                    f"{name!r} is no kept parameter of a condition called"
                    f" {candidate.name}.*, as the adaptor {candidate.name!r} says"
                )
        roles: tuple[RoleName, ...] = ("predict", "fit", "probe")
        for role in roles:
            if not any(candidate.name in graph.methods for graph in manifest.graphs_for(role)):
                yield f"no graph answers the role {role!r} with the adaptor {candidate.name!r}"


def _precision_faults(manifest: Manifest) -> Iterator[str]:
    """Every variant is the float32 encoder in another precision: one graph and one entry each, the
    same ports, tensors of its and no others.
    """
    variants = [graph for graph in manifest.graphs if graph.precision != "float32"]
    named = [graph.precision for graph in variants]
    listed = [spec.precision for spec in manifest.precisions]
    if len(set(named)) != len(named) or sorted(named) != sorted(listed):
        yield (
            f"there are encoders in {', '.join(named) or 'float32 alone'}, but"
            f" precisions lists {', '.join(listed) or 'none'}"
        )
    encoders = manifest.graphs_for("encode")
    for graph in variants:
        if graph.roles != ("encode",) or not encoders:
            yield (
                f"{graph.file} is a {graph.precision} graph; only an encoder beside"
                " one in float32 can be"
            )
        same = (graph.ports, graph.outputs, graph.reads, graph.writes) == (
            encoders[0].ports,
            encoders[0].outputs,
            (),
            (),
        )
        if not same or not set(graph.frozen) <= set(encoders[0].frozen):
            yield (
                f"{graph.file} does not take and give what {encoders[0].file} does,"
                " so it is no variant of it"
            )
    for spec in manifest.precisions:
        if spec.shift.groups != manifest.policy.shift.groups or len(spec.shift.thresholds) != len(
            spec.shift.groups
        ):
            yield (
                f"the {spec.precision} shift policy has thresholds for other groups"
                " than policy.shift"
            )
        own = {
            field: getattr(spec.shift, field)
            for field in spec.shift.__struct_fields__
            if field != "thresholds"
        }
        other = sorted(
            field for field, value in own.items() if value != getattr(manifest.policy.shift, field)
        )
        # one state folder for all: conditions are told apart in the same way
        if other or spec.novelty.method != manifest.policy.novelty.method:
            yield (
                f"the {spec.precision} policy has another"
                f" {f'shift.{other[0]}' if other else 'novelty.method'} than policy; only"
                " thresholds are a variant's own"
            )


def _receipt_faults(manifest: Manifest) -> Iterator[str]:
    """A receipt is given when the tensor learns, and can be redeemed."""
    redeemed = {name for graph in manifest.graphs_for("redeem") for name in graph.writes}
    without = {
        name: graph.file
        for graph in manifest.graphs_for("learn")
        if all(port.name != "receipt" for port in graph.outputs)
        for name in graph.writes
    }
    for spec in manifest.tensors:
        if not spec.receipt:
            continue
        if spec.kind != "evidence":
            yield (
                f"{spec.name} has receipt = true, but its kind is {spec.kind}; only"
                " evidence can be taken back"
            )
        if spec.name not in redeemed:
            yield f"{spec.name} has receipt = true, but no graph with the role 'redeem' writes it"
        if spec.name in without:
            yield (
                f"{spec.name} has receipt = true, but {without[spec.name]} learns it"
                " without the output 'receipt'"
            )
