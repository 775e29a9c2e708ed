"""Make what ships with the demo: ``python tools/make_demo_bundle.py [--data DIR] [--out FOLDER]``.
Runs on the host, with the host extra.

Trains the encoder of ``recipe.toml`` on the known classes of Fashion-MNIST, exports
``fashion.edge``, and packs ``sample.bin`` from the test images. The same recipe gives the same
bundle up to training's rounding on another processor.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import msgspec
import numpy as np

from edgeadapt.demo.sample import CLASSES, bundle_path, pack_sample

RECIPE = bundle_path().parents[1] / "recipe.toml"
PER_CLASS = 400


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python tools/make_demo_bundle.py",
        description="Train and export the demo's bundle, and pack its sample.",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with the four Fashion-MNIST files"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=bundle_path().parent,
        metavar="FOLDER",
        help="default: the package's own data folder",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    make_sample(args.out / "sample.bin", args.data)
    make_bundle(args.out / "fashion.edge", args.data)


def make_sample(out: Path, data: Path | None) -> None:
    """Draw ``PER_CLASS`` test images of every class, known classes first."""
    from edgeadapt.host.data.images import fashion_mnist

    test = fashion_mnist(data)[1]
    rng = np.random.default_rng(0)
    rows = [
        np.sort(rng.permutation(np.flatnonzero(test.y == test.classes.index(name)))[:PER_CLASS])
        for name in CLASSES
    ]
    y = np.repeat(np.arange(len(CLASSES)), [len(r) for r in rows])
    out.write_bytes(pack_sample(test.x[np.concatenate(rows)], y))
    print(f"wrote {out}: {out.stat().st_size / 2**20:.2f} MiB", flush=True)


def make_bundle(out: Path, data: Path | None) -> None:
    """Train and export as the recipe says."""
    from edgeadapt.commands.export import export_recipe
    from edgeadapt.host.recipe import load_recipe

    recipe = load_recipe(RECIPE)
    if data is not None:
        recipe = msgspec.structs.replace(
            recipe, data=msgspec.structs.replace(recipe.data, path=str(data.resolve()))
        )
    export_recipe(
        recipe,
        out,
        say=lambda line: print(line, flush=True),
        recipe_sha256=hashlib.sha256(RECIPE.read_bytes()).hexdigest(),
    )


if __name__ == "__main__":
    main()
