"""Every engine that a learner on a bundle will ask a runtime for, built before it is opened.

What is asked for is not listed here: a program is bound to a runtime that only takes down what it
is asked to load, so the two cannot differ.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.bundle.schema import Precision
from edgeadapt.device.inference.program import NO_TENSORS, Program
from edgeadapt.errors import EdgeadaptError, RuntimeUnavailable
from edgeadapt.runtime import (
    ArrayLike,
    BuildsAhead,
    Built,
    GraphFile,
    Runtime,
    Signature,
    Tensors,
    Watch,
)

Outcome = Literal["built", "kept", "none", "failed"]
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Request:
    """A graph that will be loaded, and the weights that will then be replaced; their values are
    those of the factory.
    """

    graph: GraphFile
    constants: Mapping[str, NDArray[Any]] | None = None

    @property
    def name(self) -> str:
        return f"{self.graph.name}, weights that change" if self.constants else self.graph.name


@dataclass(frozen=True)
class Result:
    """What became of one request.

    Attributes:
        outcome: ``built`` now, ``kept`` from before, ``none`` if the runtime compiles nothing for
            it, ``failed``.
        nbytes: of the engine.
        note: why there is none.
        files: that hold it.
    """

    name: str
    outcome: Outcome
    seconds: float
    nbytes: int = 0
    note: str = ""
    files: tuple[Path, ...] = ()


def requests(bundle: Bundle, *, refolds_by_input: bool = False) -> list[Request]:
    """What a learner on this bundle loads, in any precision that it has: the graphs of its program,
    the encoder as a refresh re-folds it, then those that wait for a condition that grows, and those
    that only a check of the whole bundle runs.

    Args:
        refolds_by_input: of the runtime, see ``Program``.

    Raises:
        BundleError: a learner cannot open it.
    """
    recorder = _Recorder(bundle, refolds_by_input)
    variants: list[Precision] = [variant.precision for variant in bundle.manifest.precisions]
    for precision in ("float32", *variants):
        program = Program(bundle, recorder, precision)
        program.load_all()
        program.refold(NO_TENSORS)
    for spec in bundle.manifest.graphs:
        recorder.load(bundle.graph_file(spec))
    return list(recorder.asked.values())


def build_ahead(
    runtime: BuildsAhead, asked: Iterable[Request], on_step: OnStep | None = None
) -> Iterator[Result]:
    """Build what is asked for and not kept yet, one after the other; a graph that does not build
    keeps no other from being built.

    Args:
        runtime: one that compiles; see ``edgeadapt.runtime.BuildsAhead``.
        asked: see :func:`requests`.
        on_step: called on this thread with the phase of the build, its steps that are done and
            their number.

    Raises:
        RuntimeUnavailable: the runtime keeps nothing.
        BaseException: what came up while it waited, above all ``KeyboardInterrupt``: the build is
            cancelled first. What was built before is kept.
    """
    if runtime.cache is None:
        raise RuntimeUnavailable(
            "nothing is built ahead where nothing is kept: name a folder that belongs to this user,"
            " and that no other may write to"
        )
    for request in asked:
        started = time.perf_counter()
        try:
            built = _elsewhere(partial(runtime.build, request.graph, request.constants), on_step)
        except Exception as error:  # whatever an engine raises is the failure of this graph
            kind = "" if isinstance(error, EdgeadaptError) else f"{type(error).__name__}: "
            cause = f"{kind}{error}"
            took = time.perf_counter() - started
            yield Result(request.name, "failed", took, note=" ".join(cause.split()))
            continue
        took = time.perf_counter() - started
        outcome: Outcome = "none" if not built.files else "kept" if built.was_kept else "built"
        yield Result(request.name, outcome, took, built.nbytes, built.note, built.files)


def lost(results: Iterable[Result]) -> list[str]:
    """Names of what was built or kept, and has been dropped since: the folder has no room for
    all.
    """
    return [result.name for result in results if not all(file.is_file() for file in result.files)]


def _elsewhere(build: Callable[[Watch], Built], on_step: OnStep | None) -> Built:
    """Run a build on another thread and wait for it here.

    Python hands an interrupt to the main thread, between two of its own instructions: one that is
    inside a compiler would get it minutes later.
    """
    steps: queue.SimpleQueue[tuple[str, int, int] | None] = queue.SimpleQueue()
    is_cancelled = threading.Event()
    outcome: list[Built | BaseException] = []

    def watch(phase: str, step: int, of: int) -> bool:
        steps.put((phase, step, of))
        return not is_cancelled.is_set()

    def run() -> None:
        try:
            outcome.append(build(watch))
        except BaseException as error:
            outcome.append(error)
        finally:
            steps.put(None)

    # a second interrupt leaves at once
    thread = threading.Thread(target=run, name="edgeadapt-build", daemon=True)
    thread.start()
    try:
        while (step := steps.get()) is not None:
            if on_step is not None:
                on_step(*step)
    except BaseException:
        is_cancelled.set()
        thread.join()
        raise
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _Recorder(Runtime):
    """A runtime that takes down what it is asked to load. Its graphs compute nothing: what they
    write has the frozen values of the bundle.
    """

    name = "recorder"
    refolds_by_input = False

    def __init__(self, bundle: Bundle, refolds_by_input: bool) -> None:
        self.refolds_by_input = refolds_by_input
        self.asked: dict[tuple[str, tuple[str, ...]], Request] = {}
        self._written = Tensors({name: _Held(value) for name, value in bundle.frozen.items()})

    def load(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None
    ) -> _Silent:
        key = graph.sha256, tuple(sorted(constants or ()))
        self.asked.setdefault(key, Request(graph, constants))
        return _Silent(self._written)

    def upload(self, values: Mapping[str, NDArray[Any]]) -> Tensors:
        return Tensors({name: _Held(np.asarray(value)) for name, value in values.items()})

    def download(
        self, tensors: Tensors, names: Iterable[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        return {name: tensors[name].numpy() for name in (tensors if names is None else names)}


@dataclass(frozen=True, eq=False)
class _Silent:
    written: Tensors
    signature: ClassVar[Signature] = Signature((), (), (), ())

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        return {}, self.written


@dataclass(frozen=True, eq=False)
class _Held:
    """A buffer that is an array."""

    value: NDArray[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def nbytes(self) -> int:
        return self.value.nbytes

    def numpy(self) -> NDArray[Any]:
        return self.value.copy()
