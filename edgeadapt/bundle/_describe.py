"""What is inside a bundle, for people and scripts: ``edgeadapt inspect FILE --json``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from edgeadapt.bundle._weights import tensor_bytes
from edgeadapt.bundle.archive import Bundle
from edgeadapt.bundle.roles import ROLE_NAMES

_MANIFEST = (
    *("format", "name", "version", "task", "classes", "class_slots", "domain_slots"),
    *("feature_dim", "tap_dim", "space", "input", "batches"),
)
_GRAPH = ("roles", "methods", "precision", "batch", "nodes", "reads", "writes")
_TENSOR = ("kind", "scope", "dtype", "shape")


def _of(value: object, fields: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in fields}


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, as builtins; sizes in bytes, shared weights counted once."""
    manifest = bundle.manifest
    weights = [spec for spec in manifest.tensors if spec.kind == "frozen"]
    found = {
        "path": str(bundle.path),
        "bytes": bundle.bytes,
        "sha256": bundle.sha256,
        "signed_by": bundle.signed_by,
        **_of(manifest, _MANIFEST),
        "roles": {
            role: [graph.file for graph in manifest.graphs_for(role)]
            for role in ROLE_NAMES
            if manifest.graphs_for(role)
        },
        "graphs": {
            graph.file: {
                "bytes": manifest.members[graph.file].bytes,
                "frozen_bytes": sum(tensor_bytes(manifest.tensor(name)) for name in graph.frozen),
                **_of(graph, _GRAPH),
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
            spec.name: {**_of(spec, _TENSOR), "bytes": tensor_bytes(spec)}
            for spec in manifest.tensors
        },
        "triggers": manifest.triggers,
        "policy": manifest.policy,
        "precisions": {
            spec.precision: _of(spec, ("report", "shift", "novelty"))
            for spec in manifest.precisions
        },
        "provenance": manifest.provenance,
        "stress": bundle.card.get("stress"),
    }
    return msgspec.json.decode(msgspec.json.encode(found), type=dict[str, Any])
