"""Memory of the device in large pieces, handed out in steps of 256 bytes: TensorRT wants every
address aligned so.

The lowest free place that fits is taken, and neighbours that are free become one. So sizes that
repeat come back to the same places, and a CUDA graph that was recorded for these addresses can be
used again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

ALIGNMENT = 256


def aligned(nbytes: int) -> int:
    """Rounded up; nothing takes a step as well, so that every buffer has an address of its own."""
    return max(ALIGNMENT, (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)


@dataclass
class Chunk:
    """One allocation of the device, and what of it is free: (offset, size), in order."""

    base: int
    size: int
    free: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = [(0, self.size)]

    @property
    def is_empty(self) -> bool:
        return self.free == [(0, self.size)]

    def take(self, size: int) -> int | None:
        """An offset, or None where no free place is large enough."""
        for at, (offset, room) in enumerate(self.free):
            if room >= size:
                self.free[at : at + 1] = [(offset + size, room - size)] if room > size else []
                return offset
        return None

    def put(self, offset: int, size: int) -> None:
        at = next((at for at, (start, _) in enumerate(self.free) if start > offset), len(self.free))
        start, end = offset, offset + size
        if at < len(self.free) and self.free[at][0] == end:
            end += self.free.pop(at)[1]
        if at and sum(self.free[at - 1]) == start:
            start = self.free.pop(at - 1)[0]
            at -= 1
        self.free.insert(at, (start, end - start))


@dataclass(frozen=True)
class Block:
    """A place in a chunk."""

    chunk: Chunk
    offset: int
    size: int

    @property
    def address(self) -> int:
        return self.chunk.base + self.offset


class Arena:
    """Chunks that grow by need.

    Args:
        malloc: allocates on the device; what it raises goes through, and nothing has changed then.
        free: gives back.
        chunk_size: bytes of a chunk; larger blocks get one of their own size.
        limit: bytes of all chunks together; 0 is no limit.
    """

    def __init__(
        self,
        malloc: Callable[[int], int],
        free: Callable[[int], None],
        chunk_size: int,
        limit: int = 0,
    ) -> None:
        self._malloc = malloc
        self._free = free
        self._chunk_size = aligned(chunk_size)
        self.limit = limit
        self.chunks: list[Chunk] = []

    @property
    def reserved(self) -> int:
        """Bytes of all chunks."""
        return sum(chunk.size for chunk in self.chunks)

    @property
    def used(self) -> int:
        """Bytes handed out."""
        return self.reserved - sum(size for chunk in self.chunks for _, size in chunk.free)

    def take(self, nbytes: int) -> Block | None:
        """A block of what is there, or None."""
        size = aligned(nbytes)
        for chunk in self.chunks:
            offset = chunk.take(size)
            if offset is not None:
                return Block(chunk, offset, size)
        return None

    def grow(self, nbytes: int, is_tight: bool) -> bool:
        """One chunk more that fits so many bytes, and no larger if memory is tight; False at the
        limit.
        """
        size = aligned(nbytes) if is_tight else max(aligned(nbytes), self._chunk_size)
        if self.limit and self.reserved + size > self.limit:
            return False
        self.chunks.append(Chunk(self._malloc(size), size))
        return True

    def put(self, block: Block) -> None:
        block.chunk.put(block.offset, block.size)

    def trim(self) -> None:
        """Give back the chunks in which nothing is used."""
        for chunk in [chunk for chunk in self.chunks if chunk.is_empty]:
            self.chunks.remove(chunk)
            self._free(chunk.base)
