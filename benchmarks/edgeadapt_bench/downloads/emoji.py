"""Emoji in 14 classes and four styles: two sets of PNG files, and two of SVG where ``resvg-py``
(MIT) can draw them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.downloads.folder import Arrays

PIXELS = 64
STYLES = ("google", "twitter", "openmoji", "openmoji-black")
_FEWEST = 1500  # emoji that every style has; fewer is another edition of the packages
_SYMBOLS = (
    "alphanum",
    "arrow",
    "av-symbol",
    "geometric",
    "other-symbol",
    "religion",
    "transport-sign",
    "warning",
    "zodiac",
)
_OBJECTS = (
    "book-paper",
    "computer",
    "household",
    "light & video",
    "lock",
    "mail",
    "medical",
    "money",
    "musical-instrument",
    "office",
    "other-object",
    "phone",
    "science",
    "tool",
    "writing",
)
_CLASSES: dict[str, Callable[[str, str], bool]] = {
    "person": lambda group, kind: kind.startswith("person") or kind == "family",
    "flag": lambda group, kind: kind == "country-flag",
    "symbol": lambda group, kind: kind in _SYMBOLS,
    "object": lambda group, kind: kind in _OBJECTS,
    "food": lambda group, kind: group == "Food & Drink",
    "animal": lambda group, kind: kind.startswith("animal"),
    "face": lambda group, kind: kind.startswith("face") or kind in ("cat-face", "monkey-face"),
    "vehicle": lambda group, kind: kind in ("transport-air", "transport-ground", "transport-water"),
    "place": lambda group, kind: kind.startswith("place"),
    "sky": lambda group, kind: kind == "sky & weather",
    "clothing": lambda group, kind: kind == "clothing",
    "hand": lambda group, kind: kind.startswith("hand"),
    "clock": lambda group, kind: kind == "time",
    "plant": lambda group, kind: kind.startswith("plant"),
}


def can_draw_svg() -> bool:
    """Whether the two OpenMoji styles can be had here."""
    return find_spec("resvg_py") is not None


def require_decoder() -> None:
    """Asked for before 130 MiB are fetched that could not be read.

    Raises:
        RuntimeUnavailable: Pillow is not installed.
    """
    if find_spec("PIL") is None:
        raise RuntimeUnavailable("emoji are PNG files: pip install 'edgeadapt[images]'")


def emoji(google: Path, twitter: Path, openmoji: Path | None) -> Arrays:
    """x (N, 64, 64, 3) uint8 on white; y, style, id (N,); classes, styles as text. Every emoji is
    there in every style.

    Args:
        openmoji: None leaves its two styles out.

    Raises:
        RuntimeUnavailable: Pillow is not installed.
        InputError: the packages hold something else than they are known to.
    """
    require_decoder()
    with tarfile.open(google) as archive:
        listed = archive.extractfile("package/emoji.json")
        assert listed is not None
        entries = [(entry, k) for entry in json.load(listed) for k in _class_of(entry)]
    wanted = {entry["image"]: entry["unified"] for entry, _ in entries}
    drawn = {
        "google": dict(_png(google, "google", wanted)),
        "twitter": dict(_png(twitter, "twitter", wanted)),
    }
    if openmoji is not None:
        drawn |= {
            "openmoji": dict(_svg(openmoji, "color", wanted)),
            "openmoji-black": dict(_svg(openmoji, "black", wanted)),
        }
    everywhere = [
        (entry["image"], k)
        for entry, k in entries
        if all(entry["image"] in images for images in drawn.values())
    ]
    if len(everywhere) < _FEWEST:
        raise InputError(
            f"only {len(everywhere)} emoji are in all of {', '.join(drawn)}; these are other"
            " packages than the known ones, and were not kept"
        )
    count, styles = len(everywhere), len(drawn)
    return {
        "x": np.stack([images[name] for images in drawn.values() for name, _ in everywhere]),
        "y": np.tile([k for _, k in everywhere], styles).astype(np.int64),
        "style": np.repeat(np.arange(styles), count),
        "id": np.tile(np.arange(count), styles),
        "classes": np.array(list(_CLASSES)),
        "styles": np.array(list(drawn)),
    }


def _class_of(entry: dict[str, Any]) -> list[int]:
    return [
        k
        for k, belongs in enumerate(_CLASSES.values())
        if belongs(entry["category"], entry["subcategory"])
    ][:1]


def _png(
    package: Path, style: str, wanted: dict[str, str]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    with tarfile.open(package) as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            if folder == f"package/img/{style}/64" and name in wanted:
                stream = archive.extractfile(member)
                assert stream is not None
                yield name, _on_white(stream.read())


def _svg(
    package: Path, colours: str, wanted: dict[str, str]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    import resvg_py

    by_code = {
        code: image
        for image, unified in wanted.items()
        for code in (unified.replace("-FE0F", ""), unified)
    }
    with tarfile.open(package) as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            image = by_code.get(name.removesuffix(".svg"))
            if folder == f"package/{colours}/svg" and image is not None:
                stream = archive.extractfile(member)
                assert stream is not None
                yield (
                    image,
                    _on_white(
                        bytes(
                            resvg_py.svg_to_bytes(
                                svg_string=stream.read().decode(),
                                width=PIXELS,
                                height=PIXELS,
                                skip_system_fonts=True,
                            )
                        )
                    ),
                )


def _on_white(png: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        layer = picture.convert("RGBA").resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    page = Image.new("RGBA", layer.size, "white")
    page.alpha_composite(layer)
    return np.asarray(page.convert("RGB"), np.uint8)
