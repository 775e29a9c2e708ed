"""``export`` and ``train``: from a recipe to a bundle. torch loads here, when one of them is
called.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeadapt.commands._recipe_steps import (
    export_encoder,
    find_own_modules,
    finished_encoder,
    require_folder,
    say_groups,
    say_line,
    say_plain_pixels,
    split_data,
    train_network,
    tune_network,
    with_data,
    write_weights,
)
from edgeadapt.errors import EdgeadaptError, InputError

if TYPE_CHECKING:
    from edgeadapt.host.recipe import Recipe


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
        encoder: Any = headless(tune_network(recipe, fit, validation, say).network)
    else:
        encoder = finished_encoder(recipe, fit)
    if isinstance(encoder, str) and fit.x.dtype == "uint8":
        say_plain_pixels(Path(encoder), say)
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
