"""A folder of images as the source of ``edgeadapt run``: what is accepted becomes a sample of the
encoder.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.commands.sample_source import open_source
from edgeadapt.errors import InputError
from edgeadapt.inputs import check_batch
from fuzz.edits import raw
from fuzz.target import Execute, Target

NEEDS = ("PIL",)
_GRAY = InputSpec(layout="NHW", dtype="uint8", shape=(8, 8), colour="gray", resize="bilinear")
_COLOUR = InputSpec(
    layout="NCHW",
    dtype="float32",
    shape=(3, 8, 8),
    colour="rgb",
    resize="bilinear",
    range=(0.0, 1.0),
)
_SUFFIXES = (".png", ".jpg", ".bmp", ".gif", ".tif", ".webp")


def seeds() -> list[bytes]:
    """The first byte says by which suffix the file goes."""
    from PIL import Image

    frame = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    made = []
    for index, kind in enumerate(("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")):
        for mode in ("RGB", "L"):
            buffer = io.BytesIO()
            Image.fromarray(frame).convert(mode).save(buffer, kind)
            made.append(bytes([index]) + buffer.getvalue())
    return made


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    which = data[:1] if rng.random() < 0.9 else bytes([rng.randrange(len(_SUFFIXES))])
    if data[1:9] == b"\x89PNG\r\n\x1a\n" and rng.random() < 0.7:
        return which + _spoilt_png(rng, data[1:])
    edited = bytearray(raw.edit(rng, data[1:], other[1:]))
    if rng.random() < 0.7:
        edited[:6] = data[1:7]
    return which + bytes(edited)


def _spoilt_png(rng: Random, data: bytes) -> bytes:
    """Chunks edited, doubled or dropped, with the CRCs that belong to them."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(rng.choice((1, 2))):
        index = rng.randrange(len(chunks)) if chunks else 0
        if not chunks:
            break
        kind, content = chunks[index]
        choice = rng.randrange(6)
        if choice == 0 and kind == b"IHDR":
            content = (
                struct.pack(
                    ">II", *(rng.choice((0, 1, 9, 5000, 65535, 2**31 - 1)) for _ in range(2))
                )
                + content[8:]
            )
        elif choice == 1:
            chunks.insert(
                index,
                (
                    rng.choice(
                        (
                            b"tEXt",
                            b"zTXt",
                            b"iCCP",
                            b"PLTE",
                            b"tRNS",
                            b"acTL",
                            b"fdAT",
                            b"eXIf",
                            kind,
                        )
                    ),
                    rng.choice((content, b"", b"a\0\0" + zlib.compress(bytes(1 << 20)))),
                ),
            )
            continue
        elif choice == 2:
            del chunks[index]
            continue
        else:
            content = raw.edit(rng, content)
        chunks[index] = (kind, content)
    return data[:8] + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def prepare(scratch: Path) -> Execute:
    folder = scratch / "images"
    folder.mkdir()

    def execute(data: bytes) -> None:
        path = folder / f"a{_SUFFIXES[data[0] % len(_SUFFIXES)] if data else '.png'}"
        path.write_bytes(data[1:])
        try:
            source = open_source(folder)
            for spec in (_GRAY, _COLOUR):
                assert check_batch(source.read(slice(0, 1), spec), spec).shape == (1, *spec.shape)
        finally:
            path.unlink()

    return execute


def is_past_header(error: Exception) -> bool:
    return "cannot identify image file" not in str(error)


TARGET = Target(
    "image_folder",
    seeds,
    mutate,
    prepare,
    (InputError,),
    is_past_header,
    ("edgeadapt.commands.sample_source", "edgeadapt._sample_files", "edgeadapt._prepare"),
    share=25,
    memory_mib=512,
)
