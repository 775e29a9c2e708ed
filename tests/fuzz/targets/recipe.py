"""A recipe: what is accepted has every value in its bounds."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

from edgeadapt.errors import RecipeError
from edgeadapt.host.recipe import load_recipe
from fuzz.edits import toml
from fuzz.target import Execute, Target

NEEDS = ("torch",)
_WORDS = (
    "fashion-mnist",
    "folder",
    "npz",
    "rgb",
    "gray",
    "auto",
    "act",
    "advise",
    "off",
    "plain",
    "strong",
    "none",
    "small-residual",
    "photos",
    "a",
    "b",
    "data",
    "export",
    "train",
    "encoder",
    "seed",
    "adamw",
    "torchvision:CIFAR10",
    "a:b",
)
_EVERY_KEY = b"""seed = 7
[encoder]
network = "small-residual"
weights = "w.safetensors"
[encoder.options]
width = 16
[data]
kind = "folder"
path = "photos"
classes = ["a", "b"]
new_classes = ["c"]
validation = 0.2
validation_path = "more"
size = [64, 64]
colour = "gray"
[train]
epochs = 2
batch = 16
lr = 0.1
momentum = 0.5
weight_decay = 0.0
threads = 2
optimiser = "lamb"
patience = 2
precision = "float32"
device = "cpu"
[export]
name = "screws"
class_slots = 8
domain_slots = 4
batches = [1, 8]
adapt = "advise"
novelty = "auto"
"""
_SHORT = b'[data]\nkind = "fashion-mnist"\n[export]\nname = "a"\n'
_FACTORY = (
    b'[data]\nkind = "os:getcwd"\n[data.options]\na = 1\n[train]\noptimiser ='
    b' "lamb"\n[export]\nname = "a"\n'
)
_TORCHVISION = (
    b'[data]\nkind = "torchvision:CIFAR10"\npath = "x"\n[train]\noptimiser ='
    b' "adamw"\n[export]\nname = "a"\n'
)
_FINISHED = (
    b'[encoder]\nfile = "e.onnx"\n[data]\nkind = "npz"\npath = "x.npz"\ngroups ='
    b' "day"\n[export]\nname = "a-1"\n'
)


def seeds() -> list[bytes]:
    shipped = Path(load_recipe.__code__.co_filename).parent.parent / "demo" / "recipe.toml"
    return [_EVERY_KEY, _SHORT, _FINISHED, _FACTORY, _TORCHVISION, shipped.read_bytes()]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    return toml.edit(rng, data, other, texts=_WORDS)


def prepare(scratch: Path) -> Execute:
    path = scratch / "recipe.toml"

    def execute(data: bytes) -> None:
        path.write_bytes(data)
        recipe = load_recipe(path)
        train, data_section, export = recipe.train, recipe.data, recipe.export
        assert (
            0 < train.lr < math.inf
            and 0 <= train.momentum < 1
            and 0 <= train.weight_decay < 1
            and 0 < data_section.validation < 1
        )
        assert (
            0 <= recipe.seed < 2**31
            and (data_section.size is None or min(data_section.size) >= 1)
            and train.epochs >= 1
        )
        assert (
            list(export.batches) == sorted(set(export.batches))
            and export.batches
            and export.class_slots >= len(data_section.classes)
        )
        assert "/" not in export.name and "\n" not in export.name and export.name
        for given in (
            data_section.path,
            data_section.validation_path,
            recipe.encoder.weights,
            recipe.encoder.file,
        ):
            assert not given or Path(given).is_absolute()

    return execute


def is_past_header(error: Exception) -> bool:
    return "cannot be read as TOML" not in str(error)


TARGET = Target(
    "recipe",
    seeds,
    mutate,
    prepare,
    (RecipeError,),
    is_past_header,
    ("edgeadapt.host.recipe", "edgeadapt._toml"),
    share=60,
)
