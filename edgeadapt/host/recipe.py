"""A recipe: one TOML file that says which encoder, which data, how to train and how to export.

Sections are ``[encoder]``, ``[data]``, ``[train]`` and ``[export]``; ``seed`` stands above them. A
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
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgeadapt._toml import read_table, to_struct
from edgeadapt.errors import RecipeError
from edgeadapt.host.encoders.named_networks import HAVE_WEIGHTS, HUBS, input_config, source_of
from edgeadapt.host.recipe_data import FOLDER_SIZE, load_data
from edgeadapt.host.training.augmentation import Augment
from edgeadapt.host.training.settings import (
    DeviceName,
    OptimiserName,
    PrecisionName,
    rate_and_decay,
)

Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
_KINDS = "'fashion-mnist' or 'folder' or 'npz' or 'torchvision:NAME' or 'module:factory'"


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are errors: a typo must not silently leave a default in place."""


class InputSection(_Section, frozen=True, kw_only=True):
    """What an ONNX file expects of pixels: ``(pixel / scale - mean) / std``, see
    ``host.PixelInput``.

    ``mean`` and ``std`` have one value, or one for every channel in the model's order, ``colour``;
    ``size`` is (height, width).
    """

    scale: Annotated[float, Meta(gt=0)]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["", "NCHW", "NHWC"] = ""
    colour: Literal["rgb", "bgr"] = "rgb"
    size: tuple[Positive, Positive] | None = None


class EncoderSection(_Section, frozen=True, kw_only=True):
    """Which encoder: one that we train (``network``), or a trained one (``file``).

    ``network`` and ``options`` are those of ``build_network``; ``weights`` is a safetensors state
    dict of the trained ``Normalised`` network, which replaces training. ``file`` is an exported
    torch or ONNX encoder, used as it is. ``pretrained`` is where ``timm:NAME`` or
    ``torchvision:NAME`` has its weights from: a file, a folder of timm's, or ``hub:huggingface.co``
    and ``hub:download.pytorch.org``, which alone download. ``hf:FOLDER`` has its weights in its
    folder. Such a network is exported as it is, without its classifier; ``edgeadapt train`` gives
    it a new one and goes on from there.
    """

    network: str = "small-residual"
    options: dict[str, Any] = {}
    weights: str = ""
    file: str = ""
    pretrained: str = ""
    input: InputSection | None = None


class DataSection(_Section, frozen=True, kw_only=True):
    """Which images or sensor data.

    ``kind`` is ``fashion-mnist``; ``folder`` (a folder of images per class); ``npz`` (arrays x, y
    and, if there are any, classes and groups; x is uint8 images, or float32 signals (N, C, L) or
    vectors (N, F)); ``torchvision:NAME`` (the training part of a data set of torchvision whose
    files are in ``path``); or ``module:factory`` (a function of your own that returns a map-style
    data set). ``path`` is the folder or file (for ``fashion-mnist`` empty: where Debian's package
    puts it).

    ``classes`` are the known ones, which are trained and exported (empty: all but ``new_classes``);
    ``new_classes`` are kept back, to be met as something unknown. ``validation_path`` holds
    validation samples of the same kind; without it ``validation`` is the fraction held out, except
    for ``fashion-mnist``, whose test images are used. ``groups`` names the array of an ``npz``, or
    the attribute of a data set of your own, with the recording, person, day or site of every
    sample; no group is then on both sides of a split, and rows of a group are in the order of time.
    By default it is ``groups`` where that is there; ``""`` takes samples as independent.
    ``options`` are arguments of the data set of torchvision or of the factory;
    ``validation_options`` those with which it is called a second time, for validation (``{ train =
    false }``: the test part). ``size`` is (height, width) in pixels and ``colour`` rgb or gray: of
    ``folder`` by default 96 x 96 in colour, of ``torchvision:NAME`` and ``module:factory`` as they
    are.
    """

    kind: str
    path: str = ""
    classes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    validation: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    validation_path: str = ""
    groups: str | None = None
    size: tuple[Positive, Positive] | None = None
    colour: Literal["rgb", "gray"] | None = None
    options: dict[str, Any] = {}
    validation_options: dict[str, Any] = {}


class TrainSection(_Section, frozen=True, kw_only=True):
    """The settings of ``edgeadapt.host.training.train.train``, with the same defaults; those of
    ``lr`` and ``weight_decay`` go with the optimiser.
    """

    epochs: Positive = 3
    batch: Annotated[int, Meta(ge=2)] = 128
    optimiser: OptimiserName = "sgd"
    lr: Annotated[float, Meta(gt=0, lt=1000)] | None = None
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, lt=1)] | None = None
    augment: Augment = "plain"
    patience: Annotated[int, Meta(ge=0)] = 0
    precision: PrecisionName = "auto"
    device: DeviceName = "auto"
    threads: Positive | None = None


class ExportSection(_Section, frozen=True, kw_only=True):
    """What the bundle is called, its number (raise ``version`` with every bundle that you ship),
    and how much it can grow.

    ``adapt`` and ``novelty`` set to ``"auto"`` let the stress card and the held-out classes choose;
    ``novelty`` may also name a method, which the export checks. ``state_kib`` is the most that the
    head may take in memory: the best that fits is chosen. ``head`` names it instead.
    ``novelty_kib`` is the same for the novelty score; ``adaptors = "family"`` puts adaptors into
    the bundle that a condition may grow. ``label_free`` names the method that corrects without
    labels (``"auto"`` chooses by the encoder, ``adapt = "off"`` takes none); ``smooth = "lame"``
    lets the answers of a batch speak for each other where a stream shows one class after the other.
    ``stress`` runs the stress streams, short ones or, with ``"long"``, the full card; without them
    the bundle only advises. ``precisions`` adds encoders in ``float16`` and ``int8``, each of which
    may lose ``precision_margin`` of held-out accuracy.
    """

    name: Name
    class_slots: Positive = 32
    domain_slots: Positive = 8
    batches: tuple[Positive, ...] = (1, 8, 32)
    adapt: Literal["auto", "act", "advise", "off"] = "auto"
    novelty: str = "auto"
    version: Positive = 1
    state_kib: Annotated[float, Meta(gt=0)] | None = None
    novelty_kib: Annotated[float, Meta(gt=0)] | None = None
    adaptors: Literal["none", "family"] = "none"
    label_free: str = "auto"
    head: Literal["ridge", "nearest_mean", "key_value"] = "ridge"
    smooth: Literal["none", "lame"] = "none"
    stress: bool | Literal["short", "long"] = True
    precisions: tuple[Literal["float16", "int8"], ...] = ()
    precision_margin: Annotated[float, Meta(ge=0, le=1)] = 0.01


class Recipe(_Section, frozen=True, kw_only=True):
    """The whole file. ``seed`` (0 to 2**31 - 1) is that of initial weights, order, augmentation and
    hold-out.
    """

    data: DataSection
    export: ExportSection
    encoder: EncoderSection = EncoderSection()
    train: TrainSection = TrainSection()
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0


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
    return msgspec.structs.replace(
        recipe,
        encoder=_resolved(
            path, recipe.encoder, "weights", "file", *(() if downloads else ("pretrained",))
        ),
        data=data,
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
    "load_data",
    "load_recipe",
]
