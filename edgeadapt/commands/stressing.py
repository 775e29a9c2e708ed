"""``stress``: what adaptation without labels may do, on streams of held-out data (host)."""

from __future__ import annotations

import argparse

from edgeadapt.bundle import read_bundle
from edgeadapt.errors import InputError


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
