"""Bundles with an encoder, and what an attacker makes of them: members changed, everything hashed
again, signed again or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tiny_bundle as tiny
from onnx import helper

from edgeadapt.bundle import FROZEN
from edgeadapt.bundle._container import member_order, pack
from edgeadapt.bundle.schema import (
    GraphSpec,
    Manifest,
    Member,
    Parity,
    PortSpec,
    TensorSpec,
    space_of,
)
from edgeadapt.bundle.signature import encode_signature, sign

ENCODE, MANIFEST, SIGNATURE = "graphs/encode.onnx", "manifest.json", "manifest.sig"
PIXELS = 20


def encoder_model(activation: str = "Relu") -> bytes:
    """z = activation(x @ encoder.weight + taps.bias)"""
    return tiny.model(
        [
            helper.make_node("MatMul", ["x", "encoder.weight"], ["product"]),
            helper.make_node("Add", ["product", "taps.bias"], ["sum"]),
            helper.make_node(activation, ["sum"], ["z"]),
        ],
        [tiny.values("x", "B", PIXELS)],
        [tiny.values("z", "B", tiny.DIM)],
        [
            tiny.external("encoder.weight", (PIXELS, tiny.DIM)),
            tiny.external("taps.bias", (tiny.DIM,)),
        ],
    ).SerializeToString()


def encoder_values() -> dict[str, np.ndarray]:
    """Two tensors that the graph takes, one that came with the encoder unread, and one without
    values.
    """
    rng = np.random.default_rng(5)
    shapes = {
        "encoder.weight": (PIXELS, tiny.DIM),
        "taps.bias": (tiny.DIM,),
        "encoder.head.weight": (1, tiny.DIM),
        "encoder.none": (0, 3),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def parts(**changes: Any) -> tuple[Manifest, dict[str, bytes], dict[str, dict[str, np.ndarray]]]:
    """Manifest, graphs and weights of a tiny bundle whose encoder is the one that its space
    names.
    """
    base, values = tiny.manifest(), encoder_values()
    encode = GraphSpec(
        file=ENCODE,
        roles=("encode",),
        methods=("tiny",),
        batch=None,
        ports=(PortSpec(name="x", dtype="float32", shape=(None, PIXELS)),),
        outputs=(PortSpec(name="z", dtype="float32", shape=(None, tiny.DIM)),),
        reads=(),
        writes=(),
        frozen=("encoder.weight", "taps.bias"),
        nodes=3,
        parity=Parity(cases=8, tolerance=1e-5, median_error=0.0, worst_error=0.0),
    )
    tensors = tuple(
        TensorSpec(name=name, dtype="float32", shape=value.shape, kind="frozen", persist="never")
        for name, value in values.items()
    )
    space = space_of(encoder_model(), *(values[name].tobytes() for name in sorted(values)))
    manifest = msgspec.structs.replace(
        base, tensors=base.tensors + tensors, graphs=(encode, *base.graphs), space=space
    )
    weights = tiny.weights()
    return (
        msgspec.structs.replace(manifest, **changes),
        tiny.graphs() | {ENCODE: encoder_model()},
        weights | {FROZEN: weights[FROZEN] | values},
    )


def forge(
    path: Path,
    members: Mapping[str, bytes],
    *,
    key: bytes | None = None,
    manifest: Mapping[str, Any] | None = None,
    rehash: bool = True,
) -> Path:
    """Write an archive of these members as an attacker would.

    Args:
        members: all that it has; its signature is dropped.
        key: sign with it.
        manifest: fields to replace in the manifest.
        rehash: list the members in the manifest as they are now.
    """
    kept = {name: data for name, data in members.items() if name != SIGNATURE}
    text = json.loads(kept[MANIFEST]) | dict(manifest or {})
    if rehash:
        text["members"] = {
            name: msgspec.to_builtins(
                Member(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            )
            for name, data in kept.items()
            if name != MANIFEST
        }
    kept[MANIFEST] = msgspec.json.format(msgspec.json.encode(text, order="sorted"), indent=2)
    if key is not None:
        kept[SIGNATURE] = encode_signature(sign(kept[MANIFEST], key))
    path.write_bytes(pack((name, kept[name]) for name in sorted(kept, key=member_order)))
    return path
