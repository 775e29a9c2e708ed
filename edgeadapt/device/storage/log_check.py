"""Is every change in a write-ahead log still readable? SQLite drops what is not without a word.

The log (SQLite file format, section 4) is a header of 32 bytes and frames of 24 bytes and a page.
A frame's checksum continues that of the frame before it, so that one flipped bit hides every later
frame. With ``synchronous=FULL`` a change is on the disk before the next is written: a power cut can
spoil the last one only. Here each frame is also checked against the checksum *stored* in the frame
before it, which tells a hole from an end.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import StateError, StorageError

log = logging.getLogger("edgeadapt")
_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = {0x377F0682: "<u4", 0x377F0683: ">u4"}  # and the byte order of the checksummed words
_AT_ONCE = 512  # frames
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Frames:
    """All whole frames of a log, in order.

    Attributes:
        is_ours: of this round of the log (salts).
        follows: the checksum continues that of the frame before.
        ends_change: the last frame of a transaction.
        is_one_bit: the first frame that cannot be read could be, were one bit of it another.
    """

    is_ours: NDArray[np.bool_]
    follows: NDArray[np.bool_]
    ends_change: NDArray[np.bool_]
    is_one_bit: bool = False


def check_log(path: Path) -> None:
    """Look at a write-ahead log before SQLite does. Warns where the last change cannot be read.

    A power cut leaves sectors unwritten: hardly ever does that leave one bit that is wrong. So one
    flipped bit is told from it; more than one in the last change is not.

    Raises:
        StateError: a change that cannot be read is followed by others, or has one flipped bit; or
            the header is damaged.
        StorageError: the log cannot be read.
    """
    try:
        size = path.stat().st_size
        if size <= _HEADER + _FRAME_HEADER:
            return
        with open(path, "rb") as file:
            found = _read(file, size)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if found is None:
        raise StateError(
            f"{path} is damaged: its header cannot be read, nor any change in it; restore "
            "the folder from a copy, or move this file away to go on without them"
        )
    frames, frame_bytes = found
    readable = frames.is_ours & frames.follows
    first = len(readable) if readable.all() else int(readable.argmin())
    is_left = (frames.is_ours | frames.follows)[first:]  # what is neither is of an earlier round
    lost = is_left & frames.ends_change[first:]
    if not lost.any() and is_left.sum() != 1 and not frames.is_one_bit:
        return  # the end, or what is left of a change that was never finished
    kept = int(frames.ends_change[:first].sum())
    whole = int(np.flatnonzero(frames.ends_change[:first])[-1]) + 1 if kept else 0
    end = int(lost.argmax()) if lost.any() else 0  # of the first change that cannot be read
    if frames.is_one_bit or (lost.any() and readable[first + end + 1 :].any()):
        count = kept + max(1, int(lost.sum()))
        raise StateError(
            f"{path} is damaged: change {kept + 1} of {count} in it cannot be "
            "read, and SQLite would drop it and what follows; restore the folder from a copy, or "
            f"go on with those before it: truncate -s {_HEADER + whole * frame_bytes} {path}"
        )
    log.warning(
        "%s: the last change in it cannot be read and is lost: the power failed while it was "
        "written, or the file is damaged; the %d changes before it are there",
        path,
        kept,
    )


def _read(file: BinaryIO, size: int) -> tuple[Frames, int] | None:
    """The frames and the size of one, bytes; None if the header is damaged."""
    head = file.read(_HEADER)
    magic, _, page, _, *marks = struct.unpack(">8I", head)
    order = _MAGIC.get(magic)
    if order is None or page < 512 or page > 65536 or page & (page - 1):
        return None
    start = _sums(np.frombuffer(head[:24], order)[None], _weights(6))[0]
    if [int(value) for value in start] != marks[2:]:
        return None
    frame_bytes, salts = _FRAME_HEADER + page, np.array(marks[:2], np.uint32)
    words = 2 + page // 4
    weights, carry = _weights(words), _carry(words)
    before = start
    parts, is_one_bit, is_looked_for = [], False, True
    for _ in range(0, (size - _HEADER) // frame_bytes, _AT_ONCE):
        raw = file.read(_AT_ONCE * frame_bytes)
        count = len(raw) // frame_bytes
        if not count:
            break
        rows = np.frombuffer(raw, np.uint8, count * frame_bytes).reshape(count, frame_bytes)
        named = np.ascontiguousarray(rows[:, :_FRAME_HEADER]).view(">u4").astype(np.uint32)
        covered = np.ascontiguousarray(np.delete(rows, np.s_[8:_FRAME_HEADER], axis=1)).view(order)
        seeds = np.concatenate([before[None], named[:-1, 4:]])
        sums = _sums(covered, weights) + seeds @ carry
        is_ours = (named[:, 2:4] == salts).all(axis=1)
        follows = (sums == named[:, 4:]).all(axis=1)
        if is_looked_for and not (is_ours & follows).all():
            bad, is_looked_for = int((is_ours & follows).argmin()), False
            is_one_bit = _is_one_bit(named[bad], sums[bad], salts, weights)
        parts.append((is_ours, follows, named[:, 1] > 0))
        before = named[-1, 4:]
    if not parts:
        none = np.zeros(0, bool)
        return Frames(none, none, none), frame_bytes
    is_ours, follows, ends = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Frames(is_ours, follows, ends, is_one_bit), frame_bytes


def _is_one_bit(
    named: NDArray[np.uint32],
    sums: NDArray[np.uint32],
    salts: NDArray[np.uint32],
    weights: NDArray[np.uint32],
) -> bool:
    """Would a frame be whole, were one bit of its salts, its checksum or what that covers another?

    A bit of a word adds 2**b times the word's weight to the sums, or takes it away: by chance one
    of the 66,000 fits once in 10**14 frames.
    """
    wrong = np.concatenate([named[2:4] ^ salts, named[4:] ^ sums])
    if sum(bin(word).count("1") for word in wrong.tolist()) == 1:
        return True
    if wrong[:2].any():
        return False
    gap = named[4:] - sums
    steps = np.uint32(1) << np.arange(32, dtype=np.uint32)
    changes = weights[:, None, :] * steps[None, :, None]  # modulo 2**32, as the sums
    return bool(((changes == gap) | (changes == np.uint32(0) - gap)).all(axis=2).any())


def _sums(words: NDArray[Any], weights: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(N, 2) checksums of (N, words), started from zero."""
    found: NDArray[np.uint32] = words.astype(np.uint32) @ weights
    return found


def _weights(words: int) -> NDArray[np.uint32]:
    """(words, 2): what one in a word adds to the two sums modulo 2**32.

    For each pair of words s0 += x0 + s1, then s1 += x1 + s0: linear in the words, so that a whole
    log is one product of matrices.
    """
    result = np.zeros((words, 2), np.uint32)
    to_first, to_second = (1, 0), (0, 1)  # s0 and s1 of the end, in terms of s0 and s1 after a pair
    for pair in range(words // 2 - 1, -1, -1):
        a, b = ((of[0] + of[1]) & _MASK for of in (to_first, to_second))  # of x0, and of s0
        result[2 * pair] = a, b
        result[2 * pair + 1] = to_first[1], to_second[1]
        to_first, to_second = (a, (a + to_first[1]) & _MASK), (b, (b + to_second[1]) & _MASK)
    return result


def _carry(words: int) -> NDArray[np.uint32]:
    """(2, 2): what the sums before these words become after them."""
    first, second = np.eye(2, dtype=np.uint32)
    for _ in range(words // 2):
        first = first + second
        second = second + first
    return np.stack([first, second], axis=1)
