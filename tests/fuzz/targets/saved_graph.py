"""A saved graph with its safetensors: what opens can be run, and keeps and finds its state
again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import tiny_bundle as tiny
from safetensors.numpy import save

from edgeadapt._saved_graph import KEY, Description
from edgeadapt.bundle.schema import Parity, PortSpec
from edgeadapt.errors import BundleError, InputError, RuntimeUnavailable, StateError
from edgeadapt.runtime import open_runtime, read_graph
from fuzz.edits import raw, safetensors, tree
from fuzz.target import Execute, Target
from fuzz.targets.manifest import WORDS

NEEDS = ("onnx",)
_STATE = 0xFF  # first byte of an input that is a file of saved state


def _models() -> list[bytes]:
    return [tiny.learn_model().SerializeToString(), tiny.predict_model().SerializeToString()]


def _described(
    model: bytes, reads: tuple[str, ...], writes: tuple[str, ...], outputs: tuple[str, ...]
) -> bytes:
    parity = Parity(cases=8, tolerance=1e-5, median_error=1e-7, worst_error=3e-7)
    z = PortSpec(name="z", dtype="float32", shape=(None, tiny.DIM))
    out = tuple(PortSpec(name=name, dtype="float32", shape=(None, tiny.SLOTS)) for name in outputs)
    about = Description(
        name="tiny",
        model_sha256=hashlib.sha256(model).hexdigest(),
        ports=(z,),
        outputs=out,
        reads=reads,
        writes=writes,
        frozen=("stem.whiten",),
        parity=parity,
    )
    values: dict[str, Any] = {"stem.whiten": np.eye(tiny.DIM, dtype=np.float32)}
    values |= {
        name: np.ones((tiny.DIM, tiny.DIM if name == "ridge.gram" else tiny.SLOTS), np.float32)
        for name in reads
    }
    return save(values, {KEY: msgspec.json.encode(about).decode()})


def seeds() -> list[bytes]:
    """The first byte says which model lies beside the file, or that it is a state of the first
    one.
    """
    learn, predict = _models()
    state = save({"ridge.gram": np.ones((tiny.DIM, tiny.DIM), np.float32)}, {KEY: "tiny"})
    return [
        b"\0" + _described(learn, ("ridge.gram",), ("ridge.gram",), ()),
        b"\1" + _described(predict, ("ridge.weight",), (), ("logits",)),
        bytes([_STATE]) + state,
    ]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    first, content = data[:1], data[1:]
    chance = rng.random()
    if chance < 0.15:
        return first + raw.edit(rng, content, other[1:])
    if chance < 0.55 or first == bytes([_STATE]):
        return first + safetensors.edit(rng, content, other[1:])
    try:
        header, values = safetensors.described(content)
        header["__metadata__"][KEY] = tree.edit_json(
            rng, header["__metadata__"][KEY].encode(), texts=WORDS
        ).decode()  # type: ignore[index]
        return first + safetensors.assembled(header, values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return first + raw.edit(rng, content, other[1:])


def prepare(scratch: Path) -> Execute:
    runtime = open_runtime()
    models = _models()
    for index, model in enumerate(models):
        (scratch / f"{index}.onnx").write_bytes(model)
    (scratch / "whole.onnx").write_bytes(models[0])
    (scratch / "whole.safetensors").write_bytes(seeds()[0][1:])
    z = np.ones((2, tiny.DIM), np.float32)

    def execute(data: bytes) -> None:
        first, content = data[0] if data else 0, data[1:]
        if first == _STATE:
            (scratch / "given.safetensors").write_bytes(content)
            step = read_graph(
                scratch / "whole.onnx", state=scratch / "given.safetensors", runtime=runtime
            )
        else:
            path = scratch / f"{first % 2}.onnx"
            path.with_suffix(".safetensors").write_bytes(content)
            step = read_graph(path, runtime=runtime)
        before = step.state
        assert all(np.isfinite(value).all() for value in before.values())
        with np.errstate(all="ignore"):
            step(z=z)
        assert repr(step) and set(step.state) == set(before)
        try:
            step.save_state(scratch / "saved.safetensors")
        except StateError:
            return  # finite values that are too large for one more step
        again = (
            read_graph(scratch / "whole.onnx", runtime=runtime)
            if first == _STATE
            else read_graph(path, state=scratch / "saved.safetensors", runtime=runtime)
        )
        assert set(again.state) == set(before)

    return execute


def is_past_header(error: Exception) -> bool:
    return "not a safetensors file" not in str(error)


_NAMED = (BundleError, StateError, InputError, RuntimeUnavailable)
TARGET = Target(
    "saved_graph",
    seeds,
    mutate,
    prepare,
    _NAMED,
    is_past_header,
    ("edgeadapt._saved_graph",),
    share=30,
    memory_mib=256,
)
