"""An ``.npz`` as the source of ``edgeadapt run``: what is accepted holds samples that can be read
and checked.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from random import Random

import numpy as np

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.commands.sample_source import open_source
from edgeadapt.errors import InputError
from edgeadapt.inputs import check_batch
from fuzz.edits import archive, raw
from fuzz.target import Execute, Target

_SPEC = InputSpec(layout="NHW", dtype="uint8", shape=(4, 4))
_HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4, 4), }",
    "{'descr': '|u1', 'fortran_order': True, 'shape': (3, 4, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 4, 4), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
    (
        "{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807,"
        " 9223372036854775807), }"
    ),
    "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4, 4), }",
    "{'descr': [('a', '|u1'), ('b', '<f8')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|V8', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<U1000000', 'fortran_order': False, 'shape': (300,), }",
    "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4, 4), 'x': 1}",
    "{'shape': (3,)}",
    "[]",
    "(" * 2000,
    "-" * 5000 + "1",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 48), }",
    "{'descr': '<U4', 'fortran_order': False, 'shape': (12,), }",
    "{'descr': '<c16', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|S0', 'fortran_order': False, 'shape': (99999999999,), }",
    "{'descr': ('|u1', (4, 4)), 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': 48}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 0), }",
    "{'descr': '<U1', 'fortran_order': False, 'shape': (3, 4), }",
)


def seeds() -> list[bytes]:
    x = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    return [
        _saved(x=x),
        _saved(x=x, y=np.array([0, 1, 0])),
        _saved(x=x, y=np.array(["Coat", "Bag", "é"])),
        _saved(compressed=True, x=x, y=np.array([1, 2, 3], np.uint8)),
    ]


def _saved(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    chance = rng.random()
    if chance < 0.15:
        return raw.edit(rng, data, other)
    if chance < 0.3:
        return archive.edit_fields(rng, data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as given:
            members = {
                name: given.read(name)
                for name in given.namelist()[:6]
                if given.getinfo(name).file_size < 1 << 20
            }
    except Exception:  # what a spoilt archive makes of zipfile is not the question here
        return raw.edit(rng, data, other)
    members = members or {"x.npy": b""}
    name = rng.choice(sorted(members))
    members[name] = _spoilt(rng, members[name])
    if rng.random() < 0.1:
        members[rng.choice(("x.npy", "y.npy", "x", "y", "../x.npy", "z.npy", "x.npy/"))] = (
            rng.choice((members[name], b"", b"text", b"\x80\x04K\x01."))
        )
    return _zipped(rng, members)


def _spoilt(rng: Random, member: bytes) -> bytes:
    """Another header before the values, or bytes of it changed; its length is right, mostly."""
    if rng.random() < 0.3 or member[:6] != b"\x93NUMPY":
        return raw.edit(rng, member)
    size = struct.unpack_from("<H", member, 8)[0] if len(member) > 10 else 0
    header, values = member[10 : 10 + size], member[10 + size :]
    kind = rng.random()
    if kind < 0.6:
        header = rng.choice(_HEADERS).encode() + b"\n"
    elif kind < 0.8:
        header = raw.edit(rng, header)
    values = rng.choice((values, values, values[:-1], values * 3, b"", raw.edit(rng, values)))
    version = rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\0"))
    length = len(header) if rng.random() < 0.95 else raw.interesting(rng)
    return (
        b"\x93NUMPY"
        + version
        + (
            struct.pack("<H", length % 65536)
            if version == b"\1\0"
            else struct.pack("<I", length % 2**32)
        )
        + header
        + values
    )


def _zipped(rng: Random, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    ) as made:
        for name, content in members.items():
            made.writestr(name, content)
    data = buffer.getvalue()
    if rng.random() < 0.1:  # a stream that is damaged under a CRC that is not looked at yet
        at = data.find(zlib.compress(b"")[:2])
        return data[:at] + b"\xff" + data[at + 1 :]
    return data


def prepare(scratch: Path) -> Execute:
    path = scratch / "source.npz"

    def execute(data: bytes) -> None:
        path.write_bytes(data)
        source = open_source(path)
        count = len(source.names)
        assert count and (not source.y or len(source.y) == count)
        rows, samples, _ = source.read_whole(slice(0, 2), _SPEC)
        assert samples is not None
        assert len(source.right(("Coat",) * min(2, count), rows, ("Coat", "Bag"))) in (
            0,
            min(2, count),
        )
        assert check_batch(samples, _SPEC).shape == (min(2, count), 4, 4)

    return execute


def is_past_header(error: Exception) -> bool:
    return "cannot be read as .npz" not in str(error)


TARGET = Target(
    "archive_source",
    seeds,
    mutate,
    prepare,
    (InputError,),
    is_past_header,
    ("edgeadapt.commands.sample_source", "edgeadapt._sample_files", "edgeadapt.inputs"),
    share=60,
    memory_mib=64,
)
