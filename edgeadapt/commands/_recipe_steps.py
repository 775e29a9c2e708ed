"""What commands do with a recipe: its data, its network, an export. torch loads in the call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeadapt.errors import InputError

if TYPE_CHECKING:
    from edgeadapt.host.data.labelled import Labelled
    from edgeadapt.host.recipe import Recipe
    from edgeadapt.host.tuning.run import Tuned

CALIBRATION = 0.1  # of each class of the training samples; training never sees it


def export_encoder(
    recipe: Recipe,
    encoder: Any,
    calibration: Labelled,
    out: Path,
    *,
    say: Callable[[str], None],
    private_key: bytes | None = None,
    recipe_sha256: str = "",
) -> Any:
    """Export an encoder with the settings of a recipe.

    Returns:
        The bundle.
    """
    from edgeadapt.host import export as export_bundle

    chosen = recipe.export
    settings: dict[str, Any] = {
        **{
            key: getattr(chosen, key)
            for key in (
                "name",
                "version",
                "class_slots",
                "domain_slots",
                "batches",
                "head",
                "novelty",
                "state_kib",
                "novelty_kib",
                "adaptors",
                "smooth",
                "precisions",
                "precision_margin",
            )
        },
        "seed": recipe.seed,
        "adapt": "none" if chosen.adapt == "off" else chosen.label_free,
        "stress": chosen.adapt != "advise" and chosen.stress,
        "encoder_name": Path(recipe.encoder.file).name or recipe.encoder.network,
        "data_name": recipe.data.kind,
        "recipe_sha256": recipe_sha256,
    }
    calibrating = (calibration.x, calibration.y)
    return export_bundle(
        out,
        encoder,
        calibrating,
        calibration.classes,
        groups=calibration.groups,
        private_key=private_key,
        progress=say,
        **settings,
    )


def say_plain_pixels(file: Path, say: Callable[[str], None]) -> None:
    """A model that was trained on normalised images must not get others without a word."""
    from edgeadapt.host.encoders.onnx_input import takes_plain_pixels

    if takes_plain_pixels(file):
        say(
            f"encoder: {file.name} gets pixel values from 0 to 255; if it was trained on others,"
            " say so in [encoder.input]"
        )


def split_data(recipe: Recipe) -> tuple[Labelled, Labelled, Labelled]:
    """``(for training, for calibration, validation)``, all of the known classes alone; no group is
    in two of them.
    """
    from edgeadapt.host.recipe_data import CALIBRATION_GROUPS, load_data, split_named

    training, validation = load_data(recipe)
    known = recipe.data.classes or tuple(
        name for name in training.classes if name not in recipe.data.new_classes
    )
    fit, calibration = split_named(
        recipe.data, training.only(known), CALIBRATION, recipe.seed, held=CALIBRATION_GROUPS
    )
    return fit, calibration, validation.only(known)


def say_groups(fit: Labelled, calibration: Labelled, say: Callable[[str], None]) -> None:
    """Groups are taken wherever they are there: it must not go unseen."""
    if fit.groups is not None and calibration.groups is not None:
        trained, calibrating = len(set(fit.groups.tolist())), len(set(calibration.groups.tolist()))
        say(
            f"groups: kept apart: {trained} for training, {calibrating} for calibration"
            f" ({len(calibration)} samples)"
        )


def train_network(
    recipe: Recipe, fit: Labelled, validation: Labelled, say: Callable[[str], None], **files: Any
) -> tuple[Any, float]:
    """The recipe's network, trained, and its accuracy on the validation samples; ``files`` are
    checkpoint, resume and log.
    """
    from edgeadapt.host.training.train import train as fit_network

    network = built_network(recipe, fit, recipe.encoder.pretrained)
    result = fit_network(
        network,
        fit,
        validation,
        seed=recipe.seed,
        progress=say,
        **msgspec.structs.asdict(recipe.train),
        **files,
    )
    return result.network, result.accuracy


def finished_encoder(recipe: Recipe, fit: Labelled) -> Any:
    """The encoder a recipe names by file or weights, its own or pretrained; None if it has to be
    trained.
    """
    given = recipe.encoder
    if given.file:
        return _exported_program(given.file) if given.file.endswith(".pt2") else _onnx_file(given)
    from edgeadapt.host.encoders.named_networks import (
        HAVE_WEIGHTS,
        headless,
        named_encoder,
        source_of,
    )

    has_weights = source_of(given.network) in HAVE_WEIGHTS
    if not given.weights and (given.pretrained or has_weights):
        return named_encoder(
            given.network, given.pretrained, **{**_size_option(recipe, fit), **given.options}
        )
    if not given.weights:
        return None
    return headless(weighted_network(recipe, fit))


def weighted_network(recipe: Recipe, fit: Labelled) -> Any:
    """The recipe's network with the weights of ``encoder.weights``, classifier and all.

    Raises:
        InputError: they are those of another network, or of other classes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from edgeadapt.host.encoders.named_networks import HAVE_WEIGHTS, source_of
    from edgeadapt.host.encoders.networks import Normalised

    given = recipe.encoder
    has_weights = source_of(given.network) in HAVE_WEIGHTS
    channels = 3 if given.pretrained or has_weights else fit.channels
    network = Normalised(built_network(recipe, fit, ""), [0.0] * channels, [1.0] * channels)
    try:
        network.load_state_dict(load_file(given.weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{given.weights}: not the weights of {given.network} for {len(fit.classes)} classes:"
            f" {str(error).splitlines()[0]}"
        ) from error
    return network.eval()


def built_network(recipe: Recipe, fit: Labelled, pretrained: str) -> Any:
    """The recipe's network with a classifier for these classes: with these trained weights, or
    random ones.
    """
    from edgeadapt.host.encoders.named_networks import pretrained_network
    from edgeadapt.host.encoders.networks import build_network

    given, count = recipe.encoder, len(fit.classes)
    options = {**_size_option(recipe, fit), **given.options}
    if pretrained:
        return pretrained_network(given.network, count, pretrained, seed=recipe.seed, **options)
    channels = 3 if given.pretrained else fit.channels
    return build_network(given.network, count, channels, seed=recipe.seed, **options)


def _size_option(recipe: Recipe, fit: Labelled) -> dict[str, Any]:
    """The option that makes the recipe's network one for images of this size."""
    from edgeadapt.host.encoders.named_networks import size_option

    if fit.x.ndim < 3:
        return {}
    height, width = fit.x.shape[1:3]
    if recipe.encoder.network == "efficientnet-lite0":  # it pads as for the size that it is told
        return {"image_size": (height, width)}
    return size_option(recipe.encoder.network, (height, width))


def _onnx_file(given: Any) -> Any:
    if given.input is None:
        return given.file
    from edgeadapt.host.encoders.onnx_input import OnnxFile, PixelInput

    said = msgspec.structs.asdict(given.input)
    del said["size"]
    return OnnxFile(given.file, PixelInput(**said))


def _exported_program(file: str) -> Any:
    import torch

    try:
        return torch.export.load(file)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read as a torch.export program: {str(error).splitlines()[0]}"
        ) from error


def write_weights(network: Any, out: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, str(out)
    )
    out.with_suffix(".checkpoint.safetensors").unlink(missing_ok=True)


def with_data(recipe: Recipe, path: Path | None) -> Recipe:
    if path is None:
        return recipe
    if ":" in recipe.data.kind and not recipe.data.kind.startswith("torchvision:"):
        raise InputError(
            f"--data {path}: data of kind {recipe.data.kind!r} come from that function; give it"
            " what it needs in data.options"
        )
    return msgspec.structs.replace(
        recipe, data=msgspec.structs.replace(recipe.data, path=str(path.resolve()))
    )


def find_own_modules(recipe: Path) -> None:
    """A ``module:factory`` may lie beside its recipe. The folder is looked at last, so that it
    hides nothing that is installed.
    """
    folder = str(recipe.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)


def require_folder(out: Path) -> None:
    """Minutes of training must not end in a missing folder."""
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: cannot be written: no folder {out.absolute().parent}")


def say_line(line: str) -> None:
    print(line, flush=True)


def tune_network(
    recipe: Recipe, fit: Labelled, validation: Labelled, say: Callable[[str], None], **files: Any
) -> Tuned:
    """The recipe's network, tuned by its ``[tune]``; ``files`` are checkpoint and resume."""
    from edgeadapt.host.tuning.run import tune
    from edgeadapt.host.tuning.section import control_data, tune_settings

    given = recipe.encoder
    network = (
        weighted_network(recipe, fit)
        if given.weights
        else built_network(recipe, fit, given.pretrained)
    )
    return tune(
        network,
        fit,
        validation,
        tune_settings(recipe),
        control=control_data(recipe, fit),
        progress=say,
        **files,
    )
