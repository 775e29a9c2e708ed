"""The manifest: what is accepted is written back the same, and every lookup in it answers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec

from edgeadapt.bundle import read_bundle
from edgeadapt.bundle._weights import tensor_bytes
from edgeadapt.bundle.codec import decode_manifest, encode_manifest
from edgeadapt.bundle.roles import ROLE_NAMES
from edgeadapt.demo.sample import bundle_path
from edgeadapt.errors import BundleError
from fuzz.edits import raw, tree
from fuzz.seeds import tiny_members
from fuzz.target import Execute, Target

NEEDS = ("onnx",)
WORDS = (
    "float32",
    "float16",
    "int64",
    "uint8",
    "bool",
    "frozen",
    "evidence",
    "parameter",
    "statistic",
    "derived",
    "global",
    "domain",
    "stream",
    "add",
    "mean",
    "replace",
    "checkpoint",
    "session",
    "never",
    "NHWC",
    "NCHW",
    "NHW",
    "features",
    "rgb",
    "gray",
    *ROLE_NAMES,
    "balanced_ridge",
    "nearest_mean",
    "class_mean",
    "classify",
    "regress",
    "embed",
    "stem.whiten",
    "ridge.gram",
    "ridge.weight",
    "ridge.count",
    "graphs/learn.onnx",
    "z",
    "taps",
    "y",
    "x",
    "logits",
    "0" * 64,
    "act",
    "off",
    "format",
)


def seeds() -> list[bytes]:
    return [
        *[tiny_members()["manifest.json"]] * 3,
        encode_manifest(read_bundle(bundle_path()).manifest),
    ]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    if rng.random() < 0.15:
        return raw.edit(rng, data, other)
    return tree.edit_json(rng, data, other, texts=WORDS)


def prepare(scratch: Path) -> Execute:
    return execute


def execute(data: bytes) -> None:
    manifest = decode_manifest(data)
    assert decode_manifest(encode_manifest(manifest)) == manifest, (
        "it reads back as another manifest"
    )
    for spec in manifest.tensors:
        assert manifest.tensor(spec.name) is spec
        assert tensor_bytes(spec) >= 0
    assert sum(len(manifest.graphs_for(role)) for role in ROLE_NAMES) <= sum(
        len(graph.roles) for graph in manifest.graphs
    )


def is_past_header(error: Exception) -> bool:
    """It was JSON; what was refused is what it says."""
    return isinstance(error.__cause__, msgspec.ValidationError) or error.__cause__ is None


TARGET = Target(
    "manifest",
    seeds,
    mutate,
    prepare,
    (BundleError,),
    is_past_header,
    ("edgeadapt.bundle.codec", "edgeadapt.bundle.schema", "edgeadapt.bundle._consistency"),
    share=110,
)
