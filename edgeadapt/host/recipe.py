"""A recipe: one TOML file that says which encoder, which data, how to train and how to export.

Sections are ``[encoder]``, ``[data]``, ``[train]`` or ``[tune]``, and ``[export]``; ``seed`` stands
above them. A
missing key has its default; an unknown key or a value that is not allowed is a ``RecipeError`` that
names the file, the key and what is allowed. Relative paths are taken from the folder of the recipe.

```toml
seed = 0
[data]
kind = "folder"
path = "photos"        # one folder per class
[export]
name = "screws"
```
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from edgeadapt._toml import read_table, to_struct
from edgeadapt.errors import RecipeError
from edgeadapt.host.encoders.named_networks import HAVE_WEIGHTS, HUBS, input_config, source_of
from edgeadapt.host.recipe_data import FOLDER_SIZE, load_data
from edgeadapt.host.recipe_sections import (
    DataSection,
    EncoderSection,
    ExportSection,
    Recipe,
    TrainSection,
    TuneSection,
)
from edgeadapt.host.training.settings import rate_and_decay

_KINDS = "'fashion-mnist' or 'folder' or 'npz' or 'torchvision:NAME' or 'module:factory'"


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe; its relative paths come back resolved against the folder it lies in,
    and defaults that depend filled in.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown or missing, or a value is not
            allowed.
    """
    path = Path(path)
    recipe = to_struct(path, read_table(path, "a recipe"), Recipe)
    _check(path, recipe)
    lr, weight_decay = rate_and_decay(
        recipe.train.optimiser, recipe.train.lr, recipe.train.weight_decay
    )
    recipe = msgspec.structs.replace(recipe, encoder=_with_folder(path, recipe.encoder))
    data = _resolved(path, recipe.data, "path", "validation_path")
    if not _has_own_size(data):
        size = data.size or (
            _own_size(_resolved(path, recipe.encoder, "file"))
            if data.kind == "folder"
            else FOLDER_SIZE
        )
        data = msgspec.structs.replace(data, size=size, colour=data.colour or "rgb")
    downloads = recipe.encoder.pretrained.startswith("hub:")
    tune = recipe.tune
    if tune is not None and tune.control is not None:
        control = _resolved(path, tune.control, "path", "validation_path")
        if not _has_own_size(control):
            control = msgspec.structs.replace(
                control, size=control.size or data.size, colour=control.colour or data.colour
            )
        tune = msgspec.structs.replace(tune, control=control)
    return msgspec.structs.replace(
        recipe,
        encoder=_resolved(
            path, recipe.encoder, "weights", "file", *(() if downloads else ("pretrained",))
        ),
        data=data,
        tune=tune,
        train=msgspec.structs.replace(recipe.train, lr=lr, weight_decay=weight_decay),
    )


def _with_folder(path: Path, encoder: EncoderSection) -> EncoderSection:
    source, _, folder = encoder.network.partition(":")
    if source_of(encoder.network) not in HAVE_WEIGHTS:
        return encoder
    return msgspec.structs.replace(encoder, network=f"{source}:{path.resolve().parent / folder}")


def _has_own_size(data: DataSection) -> bool:
    return ":" in data.kind


def _own_size(encoder: EncoderSection) -> tuple[int, int]:
    """The size of images that a network by name or an ONNX file was made for; of random weights of
    torchvision, any will do.
    """
    if encoder.input is not None and encoder.input.size:
        return encoder.input.size
    if encoder.file.endswith(".onnx") and Path(encoder.file).is_file():
        # late: onnx, which other recipes do not need
        from edgeadapt.host.encoders.onnx_input import own_size

        return own_size(Path(encoder.file)) or FOLDER_SIZE
    is_made_for_one = not encoder.file and (
        encoder.pretrained or source_of(encoder.network) in ("timm", *HAVE_WEIGHTS)
    )
    return input_config(encoder.network).size if is_made_for_one else FOLDER_SIZE


def _check(path: Path, recipe: Recipe) -> None:
    encoder, data, export = recipe.encoder, recipe.data, recipe.export
    if encoder.file and (
        encoder.weights
        or encoder.pretrained
        or encoder.options
        or encoder.network != EncoderSection().network
    ):
        raise RecipeError(
            f"{path}: encoder.file is a finished encoder; network, options, weights and pretrained"
            " are allowed only without it"
        )
    if encoder.input is not None and not encoder.file.endswith(".onnx"):
        raise RecipeError(
            f"{path}: encoder.input is what an ONNX file expects of pixels; allowed only with"
            " encoder.file = 'NAME.onnx'"
        )
    if encoder.pretrained:
        source = source_of(encoder.network)
        if source in HAVE_WEIGHTS:
            raise RecipeError(
                f"{path}: encoder.pretrained is not allowed for {encoder.network}; the folder has"
                " its weights"
            )
        if not source:
            raise RecipeError(
                f"{path}: encoder.pretrained is not allowed for {encoder.network}; allowed:"
                " 'timm:NAME' and 'torchvision:NAME'"
            )
        if encoder.pretrained.startswith("hub:") and encoder.pretrained != HUBS[source]:
            raise RecipeError(
                f"{path}: encoder.pretrained = {encoder.pretrained!r}; allowed: a file of weights,"
                f" or {HUBS[source]!r}"
            )
    if data.kind not in ("fashion-mnist", "folder", "npz") and not re.fullmatch(
        r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", data.kind
    ):
        raise RecipeError(f"{path}: data.kind = {data.kind!r}; allowed: {_KINDS}")
    wanted = {
        "folder": "a folder of class folders",
        "npz": "an .npz",
        "torchvision": "the folder with its files",
    }.get(data.kind.partition(":")[0])
    if wanted and not data.path:
        raise RecipeError(f"{path}: data.path is missing; allowed: {wanted}")
    if not wanted and ":" in data.kind and (data.path or data.validation_path):
        raise RecipeError(
            f"{path}: data.path is not allowed for {data.kind}; give it to your function in"
            " data.options"
        )
    taken = {"spec", "name", "root", "size", "colour"} & {*data.options, *data.validation_options}
    if taken:
        raise RecipeError(
            f"{path}: data.options.{min(taken)} is not allowed; allowed: arguments of the data set"
            " other than data.path, size and colour"
        )
    if (data.options or data.validation_options) and ":" not in data.kind:
        raise RecipeError(
            f"{path}: data.options are not allowed for {data.kind}; they are for 'torchvision:NAME'"
            " and 'module:factory'"
        )
    if data.kind == "fashion-mnist" and data.validation_path:
        raise RecipeError(
            f"{path}: data.validation_path is not allowed for fashion-mnist, which has its own test"
            " images"
        )
    if data.groups and (
        data.kind in ("fashion-mnist", "folder") or data.kind.startswith("torchvision:")
    ):
        raise RecipeError(
            f"{path}: data.groups is not allowed for {data.kind}; allowed: the name of an array of"
            " an .npz or of an attribute of your own data set"
        )
    named = data.classes + data.new_classes
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(
            f"{path}: data.classes and data.new_classes name {twice!r} twice; allowed: every class"
            " once"
        )
    if len(data.classes) == 1:
        raise RecipeError(
            f"{path}: data.classes names one class; allowed: none (all classes) or at least two"
        )
    if len(data.classes) > export.class_slots:
        raise RecipeError(
            f"{path}: export.class_slots = {export.class_slots}; allowed: at least the"
            f" {len(data.classes)} of data.classes"
        )
    positive = {
        "train.lr": recipe.train.lr,
        "data.validation": data.validation,
        "export.state_kib": export.state_kib,
        "export.novelty_kib": export.novelty_kib,
    }
    # once more: a bound just above 0 is 0 in a thread that flushes denormals, as ONNX Runtime's
    # callers do
    for key, value in positive.items():
        if value is not None and not value > 0:
            raise RecipeError(
                f"{path}: {key} = {value:g}; allowed: a number >"
                f" 0{' and < 1000' if key == 'train.lr' else ''}"
            )
    if export.adapt == "act" and export.stress is False:
        raise RecipeError(
            f'{path}: export.adapt = "act" is earned on the stress streams; allowed: export.stress'
            ' = true, "short" or "long"'
        )
    if recipe.tune is not None and encoder.file:
        raise RecipeError(
            f"{path}: encoder.file is a finished encoder, which has no backward pass, so nothing"
            " inside it can be tuned; [tune] is allowed with encoder.network. On a finished one"
            " learn heads and adaptors behind it"
        )
    budget = recipe.tune.budget if recipe.tune is not None else None
    if budget is not None and sum(v is not None for v in msgspec.structs.astuple(budget)) != 1:
        raise RecipeError(
            f"{path}: tune.budget has one of bytes, parameters and share; for example {{ bytes ="
            " 20000 }"
        )
    if not export.batches or list(export.batches) != sorted(set(export.batches)):
        raise RecipeError(
            f"{path}: export.batches = {list(export.batches)}; allowed: increasing whole numbers,"
            " such as [1, 8, 32]"
        )


def _resolved(path: Path, section: Any, *keys: str) -> Any:
    here = path.resolve().parent
    return msgspec.structs.replace(
        section, **{key: str(here / value) for key in keys if (value := getattr(section, key))}
    )


__all__ = [
    "DataSection",
    "EncoderSection",
    "ExportSection",
    "Recipe",
    "TrainSection",
    "TuneSection",
    "load_data",
    "load_recipe",
]
