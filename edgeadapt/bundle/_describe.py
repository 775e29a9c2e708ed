"""What is inside a bundle, for people and scripts: ``edgeadapt inspect FILE --json``."""

from __future__ import annotations

from typing import Any

import msgspec

from edgeadapt.bundle._weights import tensor_bytes
from edgeadapt.bundle.archive import Bundle
from edgeadapt.bundle.roles import ROLE_NAMES


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, as builtins; sizes in bytes, shared weights counted once."""
    manifest = bundle.manifest
    weights = [spec for spec in manifest.tensors if spec.kind == "frozen"]
    found = {
        "path": str(bundle.path),
        "bytes": bundle.bytes,
        "sha256": bundle.sha256,
        "signed_by": bundle.signed_by,
        "format": manifest.format,
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "classes": manifest.classes,
        "class_slots": manifest.class_slots,
        "domain_slots": manifest.domain_slots,
        "feature_dim": manifest.feature_dim,
        "tap_dim": manifest.tap_dim,
        "space": manifest.space,
        "input": manifest.input,
        "batches": manifest.batches,
        "roles": {
            role: [graph.file for graph in manifest.graphs_for(role)]
            for role in ROLE_NAMES
            if manifest.graphs_for(role)
        },
        "graphs": {
            graph.file: {
                "bytes": manifest.members[graph.file].bytes,
                "frozen_bytes": sum(tensor_bytes(manifest.tensor(name)) for name in graph.frozen),
                "roles": graph.roles,
                "methods": graph.methods,
                "precision": graph.precision,
                "batch": graph.batch,
                "nodes": graph.nodes,
                "reads": graph.reads,
                "writes": graph.writes,
            }
            for graph in manifest.graphs
        },
        "parity": {graph.file: graph.parity for graph in manifest.graphs},
        "shared_weight_bytes": sum(map(tensor_bytes, weights)),
        "weights": {
            name: member.bytes
            for name, member in sorted(manifest.members.items())
            if name.startswith("weights/")
        },
        "tensors": {
            spec.name: {
                "kind": spec.kind,
                "scope": spec.scope,
                "dtype": spec.dtype,
                "shape": spec.shape,
                "bytes": tensor_bytes(spec),
            }
            for spec in manifest.tensors
        },
        "triggers": manifest.triggers,
        "policy": manifest.policy,
        "precisions": {
            spec.precision: {"report": spec.report, "shift": spec.shift, "novelty": spec.novelty}
            for spec in manifest.precisions
        },
        "provenance": manifest.provenance,
        "stress": bundle.card.get("stress"),
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    return plain
