"""A stranger's bundle with sound hashes, opened as a learner: refused by name, or it answers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from edgeadapt.bundle._container import read_directory, read_entry
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import EdgeadaptError
from fuzz import shipped
from fuzz.edits import raw, safetensors, tree
from fuzz.seeds import repaired
from fuzz.target import Execute, Target
from fuzz.targets.manifest import WORDS

NEEDS = ("onnx",)


@cache
def members() -> dict[str, bytes]:
    """Of the shipped bundle; an input is an edit of one of them."""
    with open(shipped.bundle().path, "rb") as file:
        found = {
            name: read_entry(file, entry)
            for name, entry in read_directory(file, shipped.bundle().bytes).items()
        }
    return found


def seeds() -> list[bytes]:
    """``member`` and a number from which the edit follows: a whole bundle of a megabyte is not
    carried about.
    """
    return [
        json.dumps({"member": name, "edit": 0}).encode()
        for name in (
            "manifest.json",
            "weights/factory.safetensors",
            "weights/frozen.safetensors",
            "weights/guard.safetensors",
        )
    ]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    given = json.loads(data)
    member = given["member"] if rng.random() < 0.5 else "manifest.json"
    return json.dumps({"member": member, "edit": rng.getrandbits(40)}).encode()


def spoilt(data: bytes) -> dict[str, bytes]:
    given = json.loads(data)
    name, rng, whole = given["member"], Random(given["edit"]), dict(members())
    if not given["edit"]:
        return whole
    if name == "manifest.json":
        manifest = json.loads(whole[name])
        section = rng.choice(sorted(set(manifest) - {"members", "format"}))
        edited = tree.edit(rng, {"a": manifest[section]}, texts=WORDS)
        manifest[section] = edited.get("a") if isinstance(edited, dict) else edited
        whole[name] = tree.to_json(rng, manifest)
    elif rng.random() < 0.8:
        whole[name] = safetensors.edit(rng, whole[name])
    else:
        whole[name] = raw.edit(rng, whole[name])
    return whole


def prepare(scratch: Path) -> Execute:
    x, _ = shipped.clean()
    path = scratch / "stranger.edge"

    def execute(data: bytes) -> None:
        path.write_bytes(repaired(spoilt(data)))
        with (
            open_learner(
                path, runtime=shipped.runtime(), budget=Budget(busy_fraction=1.0)
            ) as learner,
            np.errstate(all="ignore"),
        ):
            assert len(learner.observe(x[:4]).prediction) == 4
            learner.learn(x[:3], learner.classes[:1] * 3)
            learner.settle()
            assert len(learner.digest()) == 64

    return execute


def is_past_header(error: Exception) -> bool:
    """The bundle itself was sound; the learner found it wanting."""
    return "manifest.json: " not in str(error)


_MODULES = (
    "edgeadapt.device.inference.role_graphs",
    "edgeadapt.device.inference.program",
    "edgeadapt.bundle._consistency",
)
TARGET = Target(
    "stranger",
    seeds,
    mutate,
    prepare,
    (EdgeadaptError,),
    is_past_header,
    _MODULES,
    share=2,
    memory_mib=512,
    seconds=30.0,
)
