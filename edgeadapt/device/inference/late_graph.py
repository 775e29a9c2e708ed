"""A graph that is read with its bundle and loaded at its first call: learning and adapting cost a
start nothing.

The file of a bundle may be replaced while it is in use, so the model's bytes are read at once; they
are small, for weights lie outside them. What takes time and memory is the engine's own copy:
through EfficientNet-Lite0 the adapting graph needs more of both than the encoder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from edgeadapt.runtime import ArrayLike, Executable, GraphFile, Runtime, Signature, Tensors


class LateGraph:
    """See ``edgeadapt.runtime.Executable``; thread-safe.

    Args:
        file: what is loaded. loaded: called with the executable, once.
    """

    def __init__(
        self, file: GraphFile, runtime: Runtime, loaded: Callable[[Executable], None]
    ) -> None:
        self._file: GraphFile | None = file
        self._runtime, self._loaded = runtime, loaded
        self._graph: Executable | None = None
        self._lock = threading.Lock()

    @property
    def signature(self) -> Signature:
        return self.load().signature

    def load(self) -> Executable:
        """The executable, loaded now if this is the first call.

        Raises:
            BundleError, RuntimeUnavailable: the runtime refuses the graph; the next call tries
                again.
        """
        if self._graph is None:
            with self._lock:
                if self._file is not None:
                    graph = self._runtime.load(self._file)
                    self._loaded(graph)
                    self._graph, self._file = graph, None  # its bytes go
        assert self._graph is not None
        return self._graph

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        return self.load()(ports, tensors)
