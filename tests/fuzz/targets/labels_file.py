"""The labels of ``edgeadapt run``: what is accepted names a sample and a label, line by line."""

from __future__ import annotations

from pathlib import Path
from random import Random

from edgeadapt.commands.sample_source import Source, read_labels
from edgeadapt.errors import InputError
from fuzz.edits import raw
from fuzz.target import Execute, Target

_NAMES = ("a.png", "b.png", "7", "c d.png", "é.png", '"q".png')
_FIELDS = (
    "a.png",
    "b.png",
    "7",
    "0",
    "1",
    "5",
    "6",
    "-1",
    "+1",
    "00",
    "1.0",
    "٣",
    "²",
    "1e3",
    "9" * 30,
    "9" * 5000,
    "é.png",
    '"q"',
    "'",
    "Coat",
    " Coat ",
    "",
    " ",
    "#",
    "a,b",
    '"',
    '""',
    "\0",
    "\ufeffa.png",
    "x" * 200_000,
    "=1+1",
    "\ud800",
)
_BREAKS = ("\n", "\r\n", "\r", "\n\n", "\x0b", "\u2028")


def seeds() -> list[bytes]:
    return [
        b"a.png,Coat\nb.png,Bag\n",
        b"# truth\r\n0,Coat\r\n7,Bag\r\n",
        '"é.png","T-shirt, long"\n'.encode(),
    ]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    if rng.random() < 0.4:
        return raw.edit(rng, data, other)
    lines = data.decode("utf-8", "replace").splitlines()
    for _ in range(rng.choice((1, 2, 3))):
        line = ",".join(rng.choice(_FIELDS) for _ in range(rng.choice((2, 2, 2, 1, 3))))
        lines.insert(rng.randrange(len(lines) + 1), line)
    return rng.choice(_BREAKS).join(lines).encode("utf-8", "surrogatepass")


def prepare(scratch: Path) -> Execute:
    path = scratch / "labels.csv"
    source = Source(_NAMES, (), None, ())

    def execute(data: bytes) -> None:
        path.write_bytes(data)
        for row, label in read_labels(path, source).items():
            assert 0 <= row < len(_NAMES) and label and label == label.strip()

    return execute


def is_past_header(error: Exception) -> bool:
    """Its first line was read."""
    return "cannot be read" not in str(error) and "line 1:" not in str(error)


TARGET = Target(
    "labels_file",
    seeds,
    mutate,
    prepare,
    (InputError,),
    is_past_header,
    ("edgeadapt.commands.sample_source",),
    share=50,
    memory_mib=64,
)
