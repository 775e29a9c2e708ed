"""A whole bundle through its front door, as it came or with every hash made right again, read to
the end.
"""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import tiny_bundle as tiny

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, read_bundle
from edgeadapt.bundle._container import pack, read_directory
from edgeadapt.bundle._describe import describe
from edgeadapt.errors import BundleError
from fuzz.edits import archive, protobuf, raw, safetensors, tree
from fuzz.seeds import repaired, signed_archive, tiny_archive
from fuzz.target import Execute, Target
from fuzz.targets.manifest import WORDS

NEEDS = ("onnx",)


def seeds() -> list[bytes]:
    return [tiny_archive(), signed_archive()[0]]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    chance = rng.random()
    if chance < 0.1:
        return archive.edit_fields(rng, data) if rng.random() < 0.5 else raw.edit(rng, data, other)
    try:
        members = tiny.members_of(data)
    except BundleError:
        members = tiny.members_of(tiny_archive())
    if chance < 0.2:
        return archive.edit_members(rng, members)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(members))
        members[name] = spoilt(rng, name, members[name])
    is_honest = rng.random() < 0.15  # hashes as they were: the edit must be noticed
    return pack(members.items()) if is_honest else repaired(members)


def spoilt(rng: Random, name: str, data: bytes) -> bytes:
    """One member, edited as what it is."""
    if rng.random() < 0.15:
        return raw.edit(rng, data)
    if name.endswith(".onnx"):
        return protobuf.edit(rng, data)
    if name.endswith(".safetensors"):
        return safetensors.edit(rng, data)
    return tree.edit_json(rng, data, texts=WORDS)


def prepare(scratch: Path) -> Execute:
    path = scratch / "bundle.edge"
    _, key = signed_archive()
    signed_manifest = tiny.members_of(signed_archive()[0])["manifest.json"]

    def execute(data: bytes) -> None:
        path.write_bytes(data)
        bundle = read_bundle(path)
        manifest = bundle.manifest
        assert set(read_directory(io.BytesIO(data), len(data))) - {
            "manifest.json",
            "manifest.sig",
        } == set(manifest.members)
        describe(bundle)
        for spec in manifest.graphs:
            assert bundle.graph_file(spec).model == bundle.graph(spec.file)
        for name in (FROZEN, FACTORY, GUARD):
            if name in manifest.members:
                bundle.weights(name)
        if bundle.signed_by is not None:
            read_bundle(path, trust=[key])
            assert tiny.members_of(data)["manifest.json"] == signed_manifest, (
                "another manifest passed for the signed one"
            )

    return execute


def is_past_header(error: Exception) -> bool:
    return ": archive: " not in str(error)


_MODULES = (
    "edgeadapt.bundle.archive",
    "edgeadapt.bundle._container",
    "edgeadapt.bundle.schema",
    "edgeadapt.bundle._consistency",
    "edgeadapt.bundle._weights",
    "edgeadapt.bundle._describe",
)
TARGET = Target(
    "bundle", seeds, mutate, prepare, (BundleError,), is_past_header, _MODULES, share=70
)
