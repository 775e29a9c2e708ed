"""The zip container of a bundle: written the same byte for byte, read without interpretation.

A general zip reader must guess: two directories, gaps, comments, data after the end, headers that
disagree. Here the entries tile the file from offset 0 to the central directory, which ends at the
end record, which ends the file; so every zip tool sees the members that were checked. Layout:
PKWARE APPNOTE 6.3.10, 4.3.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgeadapt.errors import BundleError

MANIFEST, CARD, SIGNATURE = "manifest.json", "card.json", "manifest.sig"
MAX_ARCHIVE_BYTES = 2 << 30
MAX_MEMBERS = 4096
MAX_MANIFEST_BYTES = 4 << 20
MAX_SIGNATURE_BYTES = 4096
MAX_CARD_BYTES = 16 << 20
_MAX_NAME = 255

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION = 20  # 2.0: no zip64, no encryption
_UNIX_FILE = (3 << 8) | _VERSION
_MODE = 0o100644 << 16
_DATE = 0x21  # 1980-01-01, the first date a zip can hold
_CHUNK = 1 << 20
_FOLDED = re.compile(
    r"graphs/[A-Za-z0-9_][A-Za-z0-9_.-]*\.onnx|weights/[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors"
)
_RANKS = {MANIFEST: 0, CARD: 2, SIGNATURE: 3}


@dataclass(frozen=True)
class Entry:
    """Where one member lies: ``size`` bytes from ``offset``."""

    name: str
    offset: int
    size: int
    crc: int


def member_order(name: str) -> tuple[int, str]:
    """Sort key of the only order a bundle may have: manifest, graphs, weights, card, signature."""
    return _RANKS.get(name, 1), name


def check_name(name: str) -> None:
    """Refuse a member name that is not one of the five kinds.

    Raises:
        BundleError: a path escape, or a name that no bundle has.
    """
    if "\\" in name:
        raise BundleError(f"{name!r}: a backslash in a member name is refused")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise BundleError(f"{name!r}: an absolute member name is refused")
    if ".." in name.split("/"):
        raise BundleError(f"{name!r}: a member name that leaves the archive is refused")
    if name not in _RANKS and not _FOLDED.fullmatch(name):
        raise BundleError(
            f"{name!r}: not one of manifest.json, graphs/*.onnx, weights/*.safetensors, card.json,"
            " manifest.sig"
        )


def pack(members: Iterable[tuple[str, bytes]]) -> bytes:
    """The archive of these members, in the order given; equal members give equal bytes."""
    body, directory, count = bytearray(), bytearray(), 0
    for name, data in members:
        raw, crc = name.encode("ascii"), zlib.crc32(data)
        shared = (_VERSION, 0, 0, 0, _DATE, crc, len(data), len(data), len(raw), 0)
        directory += _CENTRAL.pack(b"PK\1\2", _UNIX_FILE, *shared, 0, 0, 0, _MODE, len(body)) + raw
        body += _LOCAL.pack(b"PK\3\4", *shared) + raw + data
        count += 1
        if len(body) + len(directory) > MAX_ARCHIVE_BYTES - _END.size:
            raise BundleError(f"{name}: the archive would exceed {MAX_ARCHIVE_BYTES} bytes")
    return bytes(
        body + directory + _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    )


def read_directory(file: BinaryIO, size: int) -> dict[str, Entry]:
    """Check the container of an archive of ``size`` bytes; where its members lie, in file order.

    Raises:
        BundleError: not a zip, truncated, or anything that two zip readers could read in two ways.
    """
    if size > MAX_ARCHIVE_BYTES:
        raise BundleError(f"archive: {size} bytes, the limit is {MAX_ARCHIVE_BYTES}")
    if _at(file, 0, 4) != b"PK\3\4":
        raise BundleError("archive: not a zip file")
    if size < _LOCAL.size + _END.size:
        raise BundleError("archive: truncated")
    end, disk, start_disk, here, count, length, start, comment = _END.unpack(
        _at(file, size - _END.size, _END.size)
    )
    if end != b"PK\5\6" or comment:
        raise BundleError(
            "archive: the end record is not the end of the file; it is truncated, or data was"
            " appended"
        )
    if disk or start_disk or here != count or start + length != size - _END.size:
        raise BundleError(
            "archive: the end record disagrees with the file (zip64, several disks, or bytes in"
            " between)"
        )
    if not 0 < count <= MAX_MEMBERS or length > MAX_MEMBERS * (_CENTRAL.size + _MAX_NAME):
        raise BundleError(
            f"archive: {count} members, the limit is {MAX_MEMBERS} with names of {_MAX_NAME}"
        )
    entries: dict[str, Entry] = {}
    offset = 0
    for name, header, at in _central(_at(file, start, length), count):
        if name in entries:
            raise BundleError(f"{name}: in the archive twice")
        if at != offset:
            raise BundleError(
                f"{name}: starts at byte {at}, expected {offset}; overlapping or hidden data is"
                " refused"
            )
        _check_local(file, name, header, at)
        crc, packed = header[5], header[6]
        entries[name] = Entry(name, at + _LOCAL.size + len(name), packed, crc)
        offset = entries[name].offset + packed
        if offset > start:
            raise BundleError(f"{name}: reaches into the central directory")
    if offset != start:
        raise BundleError(
            "archive: bytes between the last member and the central directory are refused"
        )
    if next(iter(entries)) != MANIFEST:
        raise BundleError(f"{next(iter(entries))}: the first member must be {MANIFEST}")
    if list(entries) != sorted(entries, key=member_order):
        raise BundleError(
            "archive: members are not in the order manifest, graphs, weights, card, signature"
        )
    return entries


def read_entry(file: BinaryIO, entry: Entry) -> bytes:
    """The bytes of one member, against its size and CRC-32.

    Raises:
        BundleError: the file is shorter than it was, or the bytes changed.
    """
    data = _at(file, entry.offset, entry.size)
    if zlib.crc32(data) != entry.crc:
        raise BundleError(f"{entry.name}: damaged, its CRC-32 does not match")
    return data


def read_chunks(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """The same in blocks of 1 MiB, for hashing members that need not fit into memory."""
    crc = 0
    for start in range(0, entry.size, _CHUNK):
        block = _at(file, entry.offset + start, min(_CHUNK, entry.size - start))
        crc = zlib.crc32(block, crc)
        yield block
    if crc != entry.crc:
        raise BundleError(f"{entry.name}: damaged, its CRC-32 does not match")


def read_small(file: BinaryIO, entry: Entry, limit: int) -> bytes:
    """As :func:`read_entry`, of a member that has to fit into memory.

    Raises:
        BundleError: it is larger than the limit, or damaged.
    """
    if entry.size > limit:
        raise BundleError(f"{entry.name}: {entry.size} bytes, the limit is {limit}")
    return read_entry(file, entry)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of every refusal, and turn the system's errors into one."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{path.name or path}: {error}") from error.__cause__
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise BundleError(f"archive: truncated at byte {offset + len(data)}")
    return data


def _central(directory: bytes, count: int) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Name, the ten fields shared with the local header, and the offset of each entry."""
    position = 0
    for index in range(count):
        if (
            position + _CENTRAL.size > len(directory)
            or directory[position : position + 4] != b"PK\1\2"
        ):
            raise BundleError(f"archive: entry {index} of the central directory is damaged")
        fields = _CENTRAL.unpack_from(directory, position)
        shared: tuple[int, ...] = fields[2:12]
        comment, disk, _, attributes, offset = fields[12:]
        raw = directory[position + _CENTRAL.size : position + _CENTRAL.size + shared[8]]
        if len(raw) != shared[8] or not raw.isascii():
            raise BundleError(f"archive: the name of entry {index} is cut off or not ASCII")
        name = raw.decode("ascii")
        check_name(name)
        _, flags, method, _, _, _, packed, unpacked, _, extra = shared
        if flags & 0x2041:
            raise BundleError(f"{name}: encrypted members are refused")
        if flags:
            raise BundleError(f"{name}: zip flags {flags:#06x} are refused")
        if method or packed != unpacked:
            raise BundleError(
                f"{name}: compressed (method {method}); a bundle stores its members as they are"
            )
        if extra or comment or disk or max(packed, offset) > MAX_ARCHIVE_BYTES:
            raise BundleError(
                f"{name}: zip64, extra fields, comments and several disks are refused"
            )
        if attributes >> 28 not in (0, 0o10):
            raise BundleError(f"{name}: not a regular file")
        position += _CENTRAL.size + len(raw)
        yield name, shared, offset
    if position != len(directory):
        raise BundleError(
            "archive: bytes after the last entry of the central directory are refused"
        )


def _check_local(file: BinaryIO, name: str, shared: tuple[int, ...], offset: int) -> None:
    header = _at(file, offset, _LOCAL.size + len(name))
    if header != _LOCAL.pack(b"PK\3\4", *shared) + name.encode("ascii"):
        raise BundleError(f"{name}: its local header disagrees with the central directory")
