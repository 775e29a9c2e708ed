"""The stress card, in a bundle that is otherwise sound: what is accepted can be shown and written
again.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec

from edgeadapt.bundle import read_bundle
from edgeadapt.bundle._describe import describe
from edgeadapt.errors import BundleError
from fuzz.edits import raw, tree
from fuzz.seeds import repaired, tiny_members
from fuzz.target import Execute, Target

NEEDS = ("onnx",)


def seeds() -> list[bytes]:
    return [
        tiny_members()["card.json"],
        b"{}",
        b'{"verdict": "act", "runs": {"fog": [0.1, 0.2]}, "text": "\\u00e9"}',
    ]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    return raw.edit(rng, data, other) if rng.random() < 0.3 else tree.edit_json(rng, data, other)


def prepare(scratch: Path) -> Execute:
    path, members = scratch / "card.edge", tiny_members()

    def execute(data: bytes) -> None:
        path.write_bytes(repaired(members | {"card.json": data}))
        bundle = read_bundle(path)
        assert msgspec.json.decode(msgspec.json.encode(bundle.card)) is not None
        assert describe(bundle)["name"] == "tiny"

    return execute


def is_past_header(error: Exception) -> bool:
    return "malformed" not in str(error) and "truncated" not in str(error)


TARGET = Target(
    "card",
    seeds,
    mutate,
    prepare,
    (BundleError,),
    is_past_header,
    ("edgeadapt.bundle.archive", "edgeadapt.bundle._describe"),
    share=50,
)
