"""The label-free method of a bundle: the statistics of a condition from its unlabelled inputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import AdaptPolicy, GraphSpec
from edgeadapt.runtime import Executable, Runtime, Tensors

F32 = NDArray[np.float32]


class LabelFreeStep:
    """Refreshes statistics by the graph of the role ``adapt``.

    A condition keeps its statistics as they act, at the strength of the bundle, and an average goes
    on from where it is at full strength.

    Args:
        factory: tensors of the factory's condition.
        statistics: names of float32 statistics of a condition.
    """

    def __init__(
        self,
        graph: tuple[GraphSpec, Executable],
        runtime: Runtime,
        policy: AdaptPolicy,
        factory: Tensors,
        statistics: Collection[str],
    ) -> None:
        spec, self._graph = graph
        self._runtime, self._policy, self._factory = runtime, policy, factory
        self._statistics = [name for name in spec.writes if name in statistics]
        shapes = {port.name: port.shape for port in spec.ports}
        self._port = "x" if "x" in shapes else "z"
        self._noise = [int(n or 0) for n in shapes.get("noise", ())]

    def refresh(
        self, tensors: Tensors, inputs: NDArray[Any], sample_weight: F32, seed: int
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        """See ``Program.adapt``."""
        ports = {self._port: inputs, "sample_weight": sample_weight}
        rng, written, wishes = np.random.default_rng(seed), Tensors(), []
        tensors = self._scaled(tensors, 1.0 / self._policy.strength).over(tensors)
        for _ in range(self._policy.steps):
            if self._noise:
                ports["noise"] = rng.standard_normal(self._noise).astype(np.float32)
            outputs, new = self._graph(ports, written.over(tensors))
            written = new.over(written)
            wishes.append(outputs["wants_reset"])
        outputs = {**outputs, "wants_reset": np.maximum.reduce(wishes)}
        return outputs, self._scaled(written, self._policy.strength).over(written)

    def _scaled(self, tensors: Tensors, factor: float) -> Tensors:
        """The statistics at ``factor`` times their distance from the factory's; nothing for a
        factor of 1.
        """
        if factor == 1.0:
            return Tensors()
        names = [name for name in self._statistics if name in tensors]
        factory = self._runtime.download(self._factory, names)
        now = self._runtime.download(tensors, names)
        return self._runtime.upload(
            {
                name: factory[name] + np.float32(factor) * (now[name] - factory[name])
                for name in names
            }
        )
