"""The factory's encoder runs once for a sample of a stress card, a corrected one whenever it is
asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.host.stress.features import RemembersFeatures, Rows
from edgeadapt.runtime import GraphFile, Tensors

X = np.arange(12, dtype=np.uint8).reshape(6, 2)


class Doubling:
    """A runtime of one graph, which doubles; it counts the rows that it is given."""

    name = "doubling"

    def __init__(self) -> None:
        self.rows = 0

    def load(self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None) -> Any:
        def run(
            ports: Mapping[str, Any], tensors: Tensors
        ) -> tuple[dict[str, NDArray[Any]], Tensors]:
            self.rows += len(ports["x"])
            return {"z": ports["x"] * 2.0, "taps": ports["x"].sum(axis=1)}, Tensors()

        return run


def test_each_sample_is_encoded_once_in_whatever_order_and_batch_it_comes() -> None:
    inner, known = Doubling(), dict[str, Rows]()
    encode = RemembersFeatures(inner, "encode", known).load(GraphFile("encode", b"a"))
    encode({"x": X[[0, 1, 1, 2]]}, Tensors())
    assert inner.rows == 3
    found = encode({"x": X[[3, 2, 0, 3]]}, Tensors())[0]
    assert inner.rows == 4
    assert np.array_equal(found["z"], X[[3, 2, 0, 3]] * 2.0)
    assert np.array_equal(found["taps"], X[[3, 2, 0, 3]].sum(axis=1))
    again = RemembersFeatures(inner, "encode", known)
    again.load(GraphFile("encode", b"a"))({"x": X[:4]}, Tensors())
    assert inner.rows == 4
    again.load(GraphFile("encode", b"another"))({"x": X[:4]}, Tensors())
    assert inner.rows == 8


def test_what_is_not_the_factorys_encoder_runs_each_time() -> None:
    inner = Doubling()
    runtime = RemembersFeatures(inner, "encode", {})
    for run in (
        runtime.load(GraphFile("read", b"a")),
        runtime.load(GraphFile("encode", b"a"), {"norm.mean": X}),
    ):
        before = inner.rows
        run({"x": X}, Tensors())
        run({"x": X}, Tensors())
        assert inner.rows == before + 2 * len(X)
    assert runtime.name == "doubling"
