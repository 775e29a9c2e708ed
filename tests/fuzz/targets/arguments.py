"""What a caller hands in: batches, features and labels of every type. What is accepted has the
shape and dtype it must have.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from edgeadapt._prepare import prepare as prepare_frame
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError, UnknownClassError
from edgeadapt.inputs import FirstFrames, check_batch, check_features, check_labels, to_numpy
from fuzz.edits import tree
from fuzz.target import Execute, Target
from fuzz.values import WORDS, build

_IMAGE = InputSpec(
    layout="NHW",
    dtype="uint8",
    shape=(4, 4),
    mean=(100.0,),
    std=(30.0,),
    colour="gray",
    resize="bilinear",
)
_FLOAT = InputSpec(
    layout="NCHW",
    dtype="float32",
    shape=(3, 4, 4),
    range=(0.0, 1.0),
    mean=(0.5, 0.4, 0.2),
    std=(0.1, 0.1, 0.1),
    colour="rgb",
    resize="bilinear",
)
_CLASSES = {"Coat": 0, "Bag": 2, "dog": 5}


def _door(name: str, value: Any) -> bytes:
    return json.dumps({"door": name, "value": value}).encode()


def seeds() -> list[bytes]:
    image = {"array": {"dtype": "|u1", "shape": [2, 4, 4], "fill": "ramp", "order": "C"}}
    real = {"array": {"dtype": "<f4", "shape": [2, 3, 4, 4], "fill": "ones", "order": "C"}}
    z, taps = (
        {"array": {"dtype": "<f4", "shape": [2, width], "fill": "noise", "order": "C"}}
        for width in (4, 3)
    )
    return [
        _door("image", image),
        _door("real", real),
        _door("features", {"z": z, "taps": taps}),
        _door("z", {"z": z}),
        _door("labels", ["Coat", "Bag"]),
        _door("labels", {"array": {"dtype": "<i8", "shape": [2], "fill": "zeros", "order": "C"}}),
        _door("labels", [0, {"scalar": ["<i8", 5]}]),
        _door("open labels", ["Coat", "new"]),
        _door(
            "frame", {"array": {"dtype": "|u1", "shape": [5, 6, 3], "fill": "ramp", "order": "C"}}
        ),
        _door("image", {"array": {"dtype": "|u1", "shape": [4, 4], "fill": "ones", "order": "F"}}),
        _door("z", {"z": {"dlpack": "host"}}),
    ]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    call = json.loads(data)
    value = tree.edit(rng, {"value": call["value"]}, texts=WORDS, other=json.loads(other)["value"])
    door = (
        call["door"]
        if rng.random() < 0.9
        else rng.choice(("image", "real", "features", "z", "labels", "open labels", "frame"))
    )
    return json.dumps(
        {"door": door, "value": value.get("value") if isinstance(value, dict) else value}
    ).encode()


def prepare(scratch: Path) -> Execute:
    return execute


def execute(data: bytes) -> None:
    call = json.loads(data)
    door, value = call["door"], build(call["value"])
    with np.errstate(all="ignore"):
        if door in ("image", "real"):
            spec = _IMAGE if door == "image" else _FLOAT
            x = check_batch(value, spec)
            assert (
                x.shape[1:] == spec.shape
                and len(x)
                and x.dtype == spec.dtype
                and x.flags.c_contiguous
                and np.isfinite(x).all()
                and type(x) is np.ndarray
            )
            FirstFrames(spec, 1).add(x)
        elif door in ("features", "z"):
            z, taps = check_features(value, 4, 3 if door == "features" else 0)
            assert (
                z.shape[1] == 4 and len(z) == len(taps) > 0 and z.dtype == taps.dtype == np.float32
            )
            assert (
                np.isfinite(z).all()
                and np.isfinite(taps).all()
                and type(z) is type(taps) is np.ndarray
            )
        elif door == "frame":
            assert prepare_frame(to_numpy(value), _IMAGE).shape == (4, 4) and prepare_frame(
                to_numpy(value), _FLOAT
            ).shape == (3, 4, 4)
        else:
            names = check_labels(value, 2, _CLASSES, refuse_unknown=door == "labels")
            assert len(names) == 2 and all(
                isinstance(name, str) and (name in _CLASSES or door != "labels") for name in names
            )


def is_past_header(error: Exception) -> bool:
    """It was an array of the right shape, or as many labels as inputs."""
    return not any(
        part in str(error)
        for part in (
            "not an array",
            "an input batch has shape",
            "has shape (N",
            "a mapping with the key",
            "a frame is",
            "inputs need",
        )
    )


TARGET = Target(
    "arguments",
    seeds,
    mutate,
    prepare,
    (InputError, UnknownClassError),
    is_past_header,
    ("edgeadapt.inputs", "edgeadapt._prepare"),
    share=80,
    memory_mib=64,
)
