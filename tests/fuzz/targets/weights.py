"""The three weight files: what decodes also passed the check of its header, fits the manifest and
is finite.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import tiny_bundle as tiny

from edgeadapt.bundle import FACTORY, FROZEN, GUARD
from edgeadapt.bundle._weights import HEADER_BYTES, check_header, decode_weights
from edgeadapt.errors import BundleError
from fuzz.edits import raw, safetensors
from fuzz.seeds import tiny_members
from fuzz.target import Execute, Target

NEEDS = ("onnx",)
FILES = (FROZEN, FACTORY, GUARD)


def seeds() -> list[bytes]:
    """The first byte says which of the three files the manifest expects."""
    return [bytes([index]) + tiny_members()[name] for index, name in enumerate(FILES)]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    which = data[:1] if rng.random() < 0.95 else bytes([rng.randrange(3)])
    edit = raw.edit if rng.random() < 0.2 else safetensors.edit
    return which + edit(rng, data[1:], other[1:])


def prepare(scratch: Path) -> Execute:
    manifest = tiny.manifest()

    def execute(data: bytes) -> None:
        member, content = FILES[data[0] % 3] if data else FROZEN, data[1:]
        try:
            present = check_header(manifest, member, content[:HEADER_BYTES])
        except BundleError as refused:
            try:
                decode_weights(manifest, member, content)
            except BundleError:
                raise refused from None
            raise AssertionError(f"it decodes, but its header is refused: {refused}") from refused
        arrays = decode_weights(manifest, member, content)
        assert set(arrays) == present, "the header was read in two ways"
        for name, array in arrays.items():
            assert np.isfinite(array).all() and not array.flags.writeable
            assert member == GUARD or array.shape == manifest.tensor(name).shape

    return execute


def is_past_header(error: Exception) -> bool:
    return "cut off or above" not in str(error) and "malformed" not in str(error)


TARGET = Target(
    "weights",
    seeds,
    mutate,
    prepare,
    (BundleError,),
    is_past_header,
    ("edgeadapt.bundle._weights",),
    share=110,
)
