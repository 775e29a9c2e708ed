"""Tensors that may lie in several runtimes at once, and the one place where they cross, counted.

A buffer never changes, so a copy of it stays valid for as long as it lives. Copies go with the
buffer, and are made when an executable that lives elsewhere first reads it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.placement.elsewhere import Elsewhere
from edgeadapt.placement.places import REFERENCE, Place
from edgeadapt.runtime import Buffer, Tensors

log = logging.getLogger("edgeadapt")
_Read = Callable[[int, Tensors], dict[str, NDArray[Any]]]


class PlacedBuffer:
    """A buffer of one runtime, and its copies in others; see ``edgeadapt.runtime.Buffer``."""

    __slots__ = ("__weakref__", "at", "copies", "exchange", "home")

    def __init__(self, home: Buffer, at: int, exchange: Exchange) -> None:
        self.home, self.at, self.exchange = home, at, exchange
        self.copies: dict[int, Buffer] = NO_COPIES  # replaced, never written, until there is one

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.home.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.home.shape

    @property
    def nbytes(self) -> int:
        return self.home.nbytes

    def found(self, place: int) -> Buffer | None:
        """The buffer or its copy in a place; None where there is none."""
        return self.home if self.at == place else self.copies.get(place)

    def numpy(self) -> NDArray[Any]:
        """A copy on the host that the caller owns."""
        return self.exchange.download({"": self})[""]

    def __repr__(self) -> str:
        return (
            f"PlacedBuffer({self.dtype}{list(self.shape)} in {self.exchange.places[self.at].name})"
        )


NO_COPIES: dict[int, Buffer] = {}


@dataclass
class Copies:
    """Copies of one direction: how many, and their bytes."""

    count: int = 0
    nbytes: int = 0


class Exchange:
    """Brings tensors to where they are read.

    Args:
        places: the runtimes, by their index.

    Attributes:
        copies: (from, to) -> tensors that calls had copied between runtimes.
        tried: the same of copies that trials made and let go again.
        host_reads: tensor -> times that the host has read it.
        elsewhere: what threads have waited for devices.
        lost: why tensors are lost; empty as long as none are.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self.copies: dict[tuple[str, str], Copies] = {}
        self.tried: dict[tuple[str, str], Copies] = {}
        self.host_reads: Counter[str] = Counter()
        self.elsewhere = Elsewhere()
        self.lost = ""
        self._counting = threading.Lock()
        # by destination: who reads on the CPU does not wait for an upload elsewhere
        self._arriving = [threading.Lock() for _ in places]

    def bring(self, buffers: Mapping[str, PlacedBuffer], to: int) -> dict[str, Buffer]:
        """Each of these in a place, copied there once if it is not.

        Raises:
            RuntimeUnavailable: the place takes no tensors; or the only copy lies where it cannot be
                read any more (``lost``).
        """
        with self._arriving[to]:
            missing = {name: buffer for name, buffer in buffers.items() if buffer.found(to) is None}
            for name, copy in self._carry(missing, to, self.copies, self._read_surely).items():
                missing[name].copies = {**missing[name].copies, to: copy}
        return {name: _present(buffer.found(to)) for name, buffer in buffers.items()}

    def borrow(self, buffers: Mapping[str, PlacedBuffer], to: int) -> tuple[Tensors, float]:
        """The same for a trial: copies that are not kept, and the seconds that they took. What
        fails here has lost nothing.

        Raises:
            whatever a runtime raises.
        """
        started = time.perf_counter()
        missing = {name: buffer for name, buffer in buffers.items() if buffer.found(to) is None}
        copies = self._carry(missing, to, self.tried, self._read)
        took = time.perf_counter() - started if missing else 0.0
        return (
            Tensors(
                {
                    name: copies.get(name) or _present(buffer.found(to))
                    for name, buffer in buffers.items()
                }
            ),
            took,
        )

    def download(self, buffers: Mapping[str, PlacedBuffer]) -> dict[str, NDArray[Any]]:
        """Arrays on the host that the caller owns; from the CPU where a tensor lies there too.

        Raises:
            RuntimeUnavailable: as ``bring``.
        """
        found: dict[str, NDArray[Any]] = {}
        for at, group in self._by_place(buffers).items():
            tensors = Tensors({name: _present(buffer.found(at)) for name, buffer in group.items()})
            found.update(self._read_surely(at, tensors))
        return {name: found[name] for name in buffers}

    def _carry(
        self,
        buffers: Mapping[str, PlacedBuffer],
        to: int,
        counted: dict[tuple[str, str], Copies],
        read: _Read,
    ) -> dict[str, Buffer]:
        arrived: dict[str, Buffer] = {}
        for at, group in self._by_place(buffers).items():
            values = read(
                at, Tensors({name: _present(buffer.found(at)) for name, buffer in group.items()})
            )
            with self.elsewhere.waiting():
                arrived.update(self.places[to].opened.upload(values))
            self._count(counted, at, to, values.values())
        return arrived

    def _by_place(self, buffers: Mapping[str, PlacedBuffer]) -> dict[int, dict[str, PlacedBuffer]]:
        """Grouped by where each is read best: on the CPU if it is there."""
        groups: dict[int, dict[str, PlacedBuffer]] = {}
        for name, buffer in buffers.items():
            at = REFERENCE if buffer.found(REFERENCE) is not None else buffer.at
            groups.setdefault(at, {})[name] = buffer
        return groups

    def _read(self, at: int, tensors: Tensors) -> dict[str, NDArray[Any]]:
        opened = self.places[at].opened
        if at == REFERENCE:
            return opened.download(tensors)
        with self.elsewhere.waiting():
            return opened.download(tensors)

    def _read_surely(self, at: int, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Somebody needs them: what cannot be read twice is lost."""
        if at == REFERENCE:
            return self._read(at, tensors)
        try:
            return self._read(at, tensors)
        except Exception as error:
            log.warning(
                "placement: %s gave nothing back, and is asked again: %s",
                self.places[at].name,
                error,
            )
        try:
            return self._read(at, tensors)
        except Exception as error:
            self.lost = (
                f"tensor {next(iter(tensors))!r} lies only in {self.places[at].name!r}, which does"
                f" not give it back: {error}. Everything that was acknowledged is in the journal of"
                " the state folder: end this process and start it again"
            )
            raise RuntimeUnavailable(self.lost) from error

    def _count(
        self,
        counted: dict[tuple[str, str], Copies],
        at: int,
        to: int,
        values: Iterable[NDArray[Any]],
    ) -> None:
        sizes = [value.nbytes for value in values]
        with self._counting:
            tally = counted.setdefault((self.places[at].name, self.places[to].name), Copies())
            tally.count += len(sizes)
            tally.nbytes += sum(sizes)


def _present(buffer: Buffer | None) -> Buffer:
    assert buffer is not None
    return buffer


__all__ = ["Copies", "Exchange", "PlacedBuffer"]
