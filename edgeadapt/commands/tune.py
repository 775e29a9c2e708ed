"""``tune``: a few numbers inside the pretrained encoder of a recipe. torch loads in the call."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgeadapt.commands._recipe_steps import (
    export_encoder,
    find_own_modules,
    require_folder,
    say_groups,
    say_line,
    split_data,
    tune_network,
    with_data,
    write_weights,
)
from edgeadapt.errors import InputError

if TYPE_CHECKING:
    from edgeadapt.host.tuning.run import Tuned


def tune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="F.delta",
        help="default: the recipe's name with .delta, beside it; the merged weights and the bundle"
        " have the same name with .safetensors and .edge",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="instead of the recipe's data.path"
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="PEM",
        help="private key that signs delta and bundle, from edgeadapt keygen",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue after the last finished epoch"
    )
    parser.add_argument(
        "--no-bundle", action="store_true", help="leave the export out; edgeadapt export does it"
    )


def tune(args: argparse.Namespace) -> int:
    """Tune, write the delta, the merged weights and the bundle, and print what it did."""
    from edgeadapt.host.encoders.named_networks import headless
    from edgeadapt.host.recipe import load_recipe
    from edgeadapt.host.tuning.delta_file import write_tuned

    recipe = with_data(load_recipe(args.recipe), args.data)
    if recipe.tune is None:
        raise InputError(
            f"{args.recipe}: has no [tune] section; for example [tune] with method = 'low_rank'"
        )
    find_own_modules(args.recipe)
    out = args.out or args.recipe.with_suffix(".delta")
    require_folder(out)
    key = args.key.read_bytes() if args.key else None
    fit, calibration, validation = split_data(recipe)
    say_groups(fit, calibration, say_line)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    tuned = tune_network(
        recipe, fit, validation, say_line, checkpoint=checkpoint, resume=args.resume
    )
    write_tuned(out, recipe.export.name, tuned, private_key=key)
    weights = out.with_suffix(".safetensors")
    write_weights(tuned.network, weights)
    files = [(out, "the delta" if key is None else "the delta, signed"), (weights, "merged")]
    if not args.no_bundle:
        bundle = out.with_suffix(".edge")
        export_encoder(
            recipe,
            headless(tuned.network),
            calibration,
            bundle,
            say=say_line,
            private_key=key,
            recipe_sha256=hashlib.sha256(args.recipe.read_bytes()).hexdigest(),
        )
        files.append((bundle, "the bundle, with the merged encoder"))
    print()
    for name, value in _rows(tuned):
        print(f"{name:<34}{value}")
    for file, what in files:
        print(f"wrote {file}: {file.stat().st_size:,} bytes, {what}")
    return 0


def _rows(tuned: Tuned) -> Iterator[tuple[str, str]]:
    """What tuning did, a line each."""
    report = tuned.report
    yield "method", tuned.plan.delta.name
    yield "numbers trained inside", f"{report.numbers:,} at {len(tuned.plan.sites)} sites"
    yield "bytes of them", f"{report.bytes:,} in {tuned.settings.codec}"
    yield "numbers of the classifier", f"{report.numbers_whole:,}"
    yield "accuracy of a probe on the base", f"{report.accuracy_before:.2%}"
    yield "accuracy tuned", f"{report.accuracy:.2%}"
    if report.control is not None:
        yield "control before", f"{report.control_before:.2%}"
        yield "control after", f"{report.control:.2%}"
    yield "merge error", f"{report.merge_error:.1e} of the largest logit"
    yield "multiply-accumulates", f"{report.macs / 1e6:,.1f} million a sample; the merge adds none"
    yield "time", f"{report.seconds:,.0f} s"
    yield "peak memory", f"{report.peak_mib:,.0f} MiB"
