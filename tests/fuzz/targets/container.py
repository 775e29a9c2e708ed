"""The zip container of a bundle: what is accepted can be read to the end, and tiles the file."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import tiny_bundle as tiny

from edgeadapt.bundle._container import pack, read_chunks, read_directory, read_entry
from edgeadapt.errors import BundleError
from fuzz.edits import archive, raw
from fuzz.seeds import tiny_archive, tiny_members
from fuzz.target import Execute, Target

NEEDS = ("onnx",)


def seeds() -> list[bytes]:
    small = pack([("manifest.json", b"{}"), ("graphs/a.onnx", b"abc"), ("card.json", b"{}")])
    return [small, pack([("manifest.json", b"")]), tiny_archive(), pack(tiny_members().items())]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    chance = rng.random()
    if chance < 0.3:
        return raw.edit(rng, data, other)
    if chance < 0.75:
        return archive.edit_fields(rng, data)
    return archive.edit_members(
        rng,
        (
            tiny.members_of(tiny_archive())
            if rng.random() < 0.5
            else {"manifest.json": b"{}", "graphs/a.onnx": b"abc", "card.json": b"{}"}
        ),
    )


def prepare(scratch: Path) -> Execute:
    return execute


def execute(data: bytes) -> None:
    file = io.BytesIO(data)
    entries = read_directory(file, len(data))
    position = 0
    for name, entry in entries.items():
        content = read_entry(file, entry)
        assert b"".join(read_chunks(file, entry)) == content
        assert entry.offset == position + 30 + len(name) and entry.size == len(content), (
            "members do not tile the file"
        )
        position = entry.offset + entry.size


def is_past_header(error: Exception) -> bool:
    return not str(error).startswith("archive: ")


TARGET = Target(
    "container",
    seeds,
    mutate,
    prepare,
    (BundleError,),
    is_past_header,
    ("edgeadapt.bundle._container",),
    share=200,
    memory_mib=64,
)
