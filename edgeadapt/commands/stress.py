"""``stress``: what adaptation without labels may do, on streams of held-out data (host)."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeadapt.bundle import read_bundle
from edgeadapt.errors import InputError


def stress_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="F.edge")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="D",
        help=(
            "samples the bundle was not made from: a folder of images per class, or an .npz with x,"
            " y and classes"
        ),
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="F.edge",
        help="the new bundle, of the next version",
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help="the short streams that an export runs, instead of the full ones",
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="PEM",
        help="signs the new bundle; needed where the old one is signed",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of orders and shifts (default 0)"
    )


def stress(args: argparse.Namespace) -> int:
    """Run a stress card, and write the bundle with what it allows."""
    from edgeadapt.host.data.images import load_folder, load_npz
    from edgeadapt.host.data.labelled import Labelled
    from edgeadapt.host.data.sensors import load_sensors
    from edgeadapt.host.stress.again import stress_again

    bundle = read_bundle(args.bundle)
    takes = bundle.manifest.input
    samples: Labelled
    if args.data.is_dir():
        if takes.layout not in ("NHWC", "NHW"):
            raise InputError(f"{args.data}: a folder is of images, the bundle takes {takes.layout}")
        samples = load_folder(
            args.data, takes.shape[:2], "gray" if takes.colour == "gray" else "rgb"
        )
    else:
        is_image = takes.dtype == "uint8"
        samples = load_npz(args.data) if is_image else load_sensors(args.data)
    names = [samples.classes[place] for place in samples.y]
    key = args.key.read_bytes() if args.key else None
    made = stress_again(
        bundle,
        args.out,
        samples.x,
        names,
        kind="short" if args.short else "full",
        seed=args.seed,
        private_key=key,
    )
    adapt = made.manifest.policy.adapt
    print(
        f"wrote {args.out}: version {made.manifest.version}, adapt = {adapt.mode} ({adapt.reason})"
    )
    return 0


__all__ = ["stress"]
