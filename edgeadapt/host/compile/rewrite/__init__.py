"""Passes that make a graph cheaper and leave its numbers alone, up to the rounding of a product.

Each pass takes a graph and says whether it changed anything. They run in turn until none does. What
each one gains is measured by ``edgeadapt bench steps --passes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgeadapt.host.compile.rewrite.concatenation import squeeze_after_concat
from edgeadapt.host.compile.rewrite.constants import expand_uniform_constants
from edgeadapt.host.compile.rewrite.matmul import accumulate_in_product, use_transpose_flags
from edgeadapt.host.compile.rewrite.normalisation import fuse_layer_norm
from edgeadapt.host.compile.rewrite.recompute import recompute_masked_values
from edgeadapt.host.compile.rewrite.reduction import drop_reduced_axes, skip_single_elements

Pass = Callable[[ir.Graph], bool]
PASSES: dict[str, Pass] = {
    "transpose flags": use_transpose_flags,
    "sums in products": accumulate_in_product,
    "layer norm": fuse_layer_norm,
    "reduced axes": drop_reduced_axes,
    "single elements": skip_single_elements,
    "squeezed parts": squeeze_after_concat,
    "uniform constants": expand_uniform_constants,
    "recomputed masks": recompute_masked_values,
}
"""Name -> pass, in the order in which they run."""

_ROUNDS = 20
_left_out: ContextVar[frozenset[str]] = ContextVar("left_out", default=frozenset())


@contextmanager
def without_passes(*names: str) -> Iterator[None]:
    """Leave passes out of every graph compiled inside the block, to measure what they gain.

    Raises:
        KeyError: no pass has that name.
    """
    if unknown := set(names) - set(PASSES):
        raise KeyError(f"no pass called {sorted(unknown)[0]!r}; passes: {', '.join(PASSES)}")
    token = _left_out.set(_left_out.get() | set(names))
    try:
        yield
    finally:
        _left_out.reset(token)


def rewrite(model: ir.Model) -> None:
    """Run the passes on a model with shapes, in place."""
    chosen = [run for name, run in PASSES.items() if name not in _left_out.get()]
    for _ in range(_ROUNDS):
        changed = [run(model.graph) for run in chosen]
        passes.RemoveUnusedNodesPass()(model)
        if not any(changed):
            return


__all__ = ["PASSES", "Pass", "rewrite", "without_passes"]
