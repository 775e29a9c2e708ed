"""``export`` and ``train``: from a recipe to a bundle. torch loads here, when one of them is
called.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeadapt.errors import EdgeadaptError, InputError

if TYPE_CHECKING:
    from edgeadapt.host.data.labelled import Labelled
    from edgeadapt.host.recipe import Recipe

CALIBRATION = 0.1  # of each class of the training samples; training never sees it


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="F.safetensors",
        help="default: the recipe's name with .safetensors, beside it",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="instead of the recipe's data.path"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue after the last finished epoch"
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="DIR",
        help="write metrics.csv there, and TensorBoard events if tensorboard is installed",
    )


def train(args: argparse.Namespace) -> int:
    """Train the recipe's network and write its weights; in several processes if torchrun started
    them, of which the first writes.
    """
    from edgeadapt.host.recipe import load_recipe
    from edgeadapt.host.training.parallel import is_first_process

    recipe = with_data(load_recipe(args.recipe), args.data)
    find_own_modules(args.recipe)
    if recipe.encoder.file:
        raise InputError(
            f"{args.recipe}: encoder.file is a finished encoder; there is nothing to train"
        )
    out = args.out or args.recipe.with_suffix(".safetensors")
    require_folder(out)
    fit, calibration, validation = split_data(recipe)
    if is_first_process():
        say_groups(fit, calibration, say_line)
    network, accuracy = train_network(
        recipe,
        fit,
        validation,
        say_line,
        checkpoint=out.with_suffix(".checkpoint.safetensors"),
        resume=args.resume,
        log=args.log,
    )
    if is_first_process():
        write_weights(network, out)
        print(f"wrote {out}: validation accuracy {accuracy:.2%}")
    return 0


def export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="F.edge")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="instead of the recipe's data.path"
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="PEM",
        help="private key that signs the bundle, from edgeadapt keygen",
    )
    parser.add_argument(
        "--state-kib",
        type=_size,
        metavar="KIB",
        help="choose the best head whose tensors take no more than this, and print what was tried",
    )


def _size(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"above 0, got {value:g}")
    return value


def export(args: argparse.Namespace) -> int:
    """From recipe to bundle; 1 if the recipe demands ``adapt = "act"`` and the stress card says
    no.
    """
    from edgeadapt.host.recipe import load_recipe

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "export runs in one process: train with torchrun, then export with encoder.weights in"
            " the recipe"
        )
    key = args.key.read_bytes() if args.key else None
    recipe = with_data(load_recipe(args.recipe), args.data)
    find_own_modules(args.recipe)
    if args.state_kib is not None:
        recipe = msgspec.structs.replace(
            recipe, export=msgspec.structs.replace(recipe.export, state_kib=args.state_kib)
        )
    require_folder(args.out)
    bundle = export_recipe(
        recipe,
        args.out,
        say=say_line,
        private_key=key,
        recipe_sha256=hashlib.sha256(args.recipe.read_bytes()).hexdigest(),
    )
    adapt = bundle.manifest.policy.adapt
    if recipe.export.adapt == "act" and adapt.mode != "act":
        raise _NotEarned(
            f'{args.out}: export.adapt = "act", but the stress card allows {adapt.mode}:'
            f" {adapt.reason}"
        )
    return 0


class _NotEarned(EdgeadaptError):
    """The bundle was written, with less than the recipe demands."""


def export_recipe(
    recipe: Recipe,
    out: Path,
    *,
    say: Callable[[str], None],
    private_key: bytes | None = None,
    recipe_sha256: str = "",
) -> Any:
    """Train if there is no finished encoder, then export with calibration samples that training
    never saw.

    Returns:
        The bundle.
    """
    from edgeadapt.host.encoders.named_networks import headless

    fit, calibration, validation = split_data(recipe)
    say_groups(fit, calibration, say)
    if recipe.tune is not None:
        from edgeadapt.commands.tune import tune_network

        encoder: Any = headless(tune_network(recipe, fit, validation, say).network)
    else:
        encoder = finished_encoder(recipe, fit)
    if isinstance(encoder, str) and fit.x.dtype == "uint8":
        _say_plain_pixels(Path(encoder), say)
    if encoder is None:
        encoder = headless(train_network(recipe, fit, validation, say)[0])
    return export_encoder(
        recipe,
        encoder,
        calibration,
        out,
        say=say,
        private_key=private_key,
        recipe_sha256=recipe_sha256,
    )


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


def _say_plain_pixels(file: Path, say: Callable[[str], None]) -> None:
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
    from edgeadapt.host.encoders.named_networks import size_option

    height, width = (*fit.x.shape[1:3], 0, 0)[:2]
    return size_option(recipe.encoder.network, (height, width)) if fit.x.ndim > 2 else {}


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
