"""The runtimes that graphs are placed on, and tensors that may lie in several of them at once.

A buffer never changes, so a copy of it stays valid for as long as it lives. Copies go with the
buffer, and are made when an executable that runs in another place first reads it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.runtime import Buffer, Runtime, Tensors

log = logging.getLogger("edgeadapt")

REFERENCE = 0
"""Index of the place that every graph starts on, and goes back to: it serves from the first moment.
"""
_Read = Callable[[int, Tensors], dict[str, NDArray[Any]]]


class Place:
    """One runtime.

    Args:
        index: its number; 0 is the reference.
        name: of the runtime.
        make: opens it; it may take long, and may raise.
        runtime: where it is open already.

    Attributes:
        why_not: why nothing is placed here; empty while something may be.
        has_served: a graph has run here for callers, so tensors may lie here.
        gate: held by whoever loads a graph here: a runtime may build for minutes, and lets nobody
            else load meanwhile.
    """

    def __init__(
        self,
        index: int,
        name: str,
        make: Callable[[], Runtime] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.index, self.name = index, name
        self.why_not, self.has_served = "", False
        self.gate = threading.Lock()
        self._make, self._runtime = make, runtime

    @property
    def opened(self) -> Runtime:
        """The runtime. Raises: RuntimeUnavailable: it is not open."""
        if self._runtime is None:
            raise RuntimeUnavailable(
                f"runtime {self.name!r} is not open{': ' if self.why_not else ''}{self.why_not}"
            )
        return self._runtime

    @property
    def is_open(self) -> bool:
        return self._runtime is not None

    def open(self) -> None:
        """Open it, once. Where it does not open, ``why_not`` says why. On the thread of the trials
        only.
        """
        if self._runtime is None and self._make is not None and not self.why_not:
            try:
                self._runtime = self._make()
            # whatever an engine of others raises, it is not used, and the report says why
            except Exception as error:
                self.why_not = f"{type(error).__name__}: {error}"

    def release(self) -> None:
        """Give back what it holds; it is opened again when another graph is to be tried. Only where
        no tensor can lie.
        """
        if self._make is not None and not self.has_served:
            self._runtime = None


class DeviceTime(threading.local):
    """Seconds that the calling thread has waited for work that other runtimes did for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a block in which the thread itself does not compute. Blocks do not
        nest.
        """
        started, computed = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.seconds += max(
                0.0, time.perf_counter() - started - (time.thread_time() - computed)
            )

    def spent(self) -> float:
        """Seconds of work of the calling thread, its own and of devices that it waited for; only
        differences mean something.
        """
        return time.thread_time() + self.seconds


class PlacedBuffer:
    """A buffer of one runtime, and its copies in others; see ``edgeadapt.runtime.Buffer``."""

    __slots__ = ("__weakref__", "at", "buffer", "copies", "exchange")

    def __init__(self, buffer: Buffer, at: int, exchange: Exchange) -> None:
        self.buffer, self.at, self.exchange = buffer, at, exchange
        self.copies: dict[int, Buffer] = _NO_COPIES  # replaced, never written

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.buffer.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.buffer.shape

    @property
    def nbytes(self) -> int:
        return self.buffer.nbytes

    def is_at(self, place: int) -> bool:
        return self.at == place or place in self.copies

    def copy_at(self, place: int) -> Buffer:
        """The buffer or its copy in a place; there must be one."""
        return self.buffer if self.at == place else self.copies[place]

    def numpy(self) -> NDArray[Any]:
        """A copy on the host that the caller owns."""
        return self.exchange.download({"": self})[""]

    def __repr__(self) -> str:
        return (
            f"PlacedBuffer({self.dtype}{list(self.shape)} in {self.exchange.places[self.at].name})"
        )


_NO_COPIES: dict[int, Buffer] = {}


@dataclass
class Copies:
    """Copies of one direction: how many, and their bytes."""

    count: int = 0
    nbytes: int = 0


class Exchange:
    """The one way by which tensors come to where they are read, counted.

    Args:
        places: the runtimes, by their index.

    Attributes:
        copies: (from, to) -> tensors that calls had copied between runtimes.
        trial_copies: the same of copies that trials made and released again.
        host_reads: tensor -> times that the host has read it.
        device_time: what threads have waited for devices.
        lost: why tensors are lost; empty as long as none are.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self.copies: dict[tuple[str, str], Copies] = {}
        self.trial_copies: dict[tuple[str, str], Copies] = {}
        self.host_reads: Counter[str] = Counter()
        self.device_time = DeviceTime()
        self.lost = ""
        self._counting = threading.Lock()
        # by destination: who reads on the CPU does not wait for an upload to a device
        self._arriving = [threading.Lock() for _ in places]

    def bring(self, buffers: Mapping[str, PlacedBuffer], to: int) -> dict[str, Buffer]:
        """Each of these in a place, copied there once if it is not.

        Raises:
            RuntimeUnavailable: the place takes no tensors; or the only copy lies where it cannot be
                read any more (``lost``).
        """
        with self._arriving[to]:
            missing = {name: buffer for name, buffer in buffers.items() if not buffer.is_at(to)}
            for name, copy in self._copy(missing, to, self.copies, self._read_or_lose).items():
                missing[name].copies = {**missing[name].copies, to: copy}
        return {name: buffer.copy_at(to) for name, buffer in buffers.items()}

    def borrow(self, buffers: Mapping[str, PlacedBuffer], to: int) -> tuple[Tensors, float]:
        """The same for a trial: copies that are not kept, and the seconds that they took. What
        fails here has lost nothing.

        Raises:
            whatever a runtime raises.
        """
        started = time.perf_counter()
        missing = {name: buffer for name, buffer in buffers.items() if not buffer.is_at(to)}
        copies = self._copy(missing, to, self.trial_copies, self._read)
        took = time.perf_counter() - started if missing else 0.0
        found = {name: copies.get(name) or one.copy_at(to) for name, one in buffers.items()}
        return Tensors(found), took

    def download(self, buffers: Mapping[str, PlacedBuffer]) -> dict[str, NDArray[Any]]:
        """Arrays on the host that the caller owns; from the CPU where a tensor lies there too.

        Raises:
            RuntimeUnavailable: as ``bring``.
        """
        found: dict[str, NDArray[Any]] = {}
        for at, tensors in self._by_place(buffers).items():
            found.update(self._read_or_lose(at, Tensors(tensors)))
        return {name: found[name] for name in buffers}

    def _copy(
        self,
        buffers: Mapping[str, PlacedBuffer],
        to: int,
        counted: dict[tuple[str, str], Copies],
        read: _Read,
    ) -> dict[str, Buffer]:
        arrived: dict[str, Buffer] = {}
        for at, tensors in self._by_place(buffers).items():
            values = read(at, Tensors(tensors))
            with self.device_time.waiting():
                arrived.update(self.places[to].opened.upload(values))
            with self._counting:
                tally = counted.setdefault((self.places[at].name, self.places[to].name), Copies())
                tally.count += len(values)
                tally.nbytes += sum(value.nbytes for value in values.values())
        return arrived

    def _by_place(self, buffers: Mapping[str, PlacedBuffer]) -> dict[int, dict[str, Buffer]]:
        """Grouped by where each is read best: on the CPU if it is there."""
        groups: dict[int, dict[str, Buffer]] = {}
        for name, buffer in buffers.items():
            at = REFERENCE if buffer.is_at(REFERENCE) else buffer.at
            groups.setdefault(at, {})[name] = buffer.copy_at(at)
        return groups

    def _read(self, at: int, tensors: Tensors) -> dict[str, NDArray[Any]]:
        opened = self.places[at].opened
        if at == REFERENCE:
            return opened.download(tensors)
        with self.device_time.waiting():
            return opened.download(tensors)

    def _read_or_lose(self, at: int, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Somebody needs them: what cannot be read twice is lost."""
        if at == REFERENCE:
            return self._read(at, tensors)
        name = self.places[at].name
        try:
            return self._read(at, tensors)
        except Exception as error:
            log.warning("placement: %s gave nothing back, and is asked again: %s", name, error)
        try:
            return self._read(at, tensors)
        except Exception as error:
            self.lost = (
                f"tensor {next(iter(tensors))!r} lies only in {name!r}, which does not give it"
                f" back: {error}. Everything that was acknowledged is in the journal of the state"
                " folder: end this process and start it again"
            )
            raise RuntimeUnavailable(self.lost) from error


__all__ = ["REFERENCE", "Copies", "Exchange", "Place", "PlacedBuffer"]
