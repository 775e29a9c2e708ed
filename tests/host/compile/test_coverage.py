"""Every entry of the gallery compiles and computes what torch computes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import onnx
import pytest
from gallery import GALLERY, Entry
from keep_gallery import keep

from edgeadapt.host.compile import CompiledGraph

HEAD_SECONDS = 3.0
# folder for what other versions of ONNX Runtime are to replay
KEEP = os.environ.get("EDGEADAPT_KEEP_GALLERY", "")
ENTRIES = [
    pytest.param(entry, id=entry.name, marks=() if entry.is_quick else pytest.mark.slow)
    for entry in GALLERY
]
HEADS = ("mlp", "scale and shift", "bottleneck", "low rank")


@pytest.mark.parametrize("entry", ENTRIES)
def test_it_computes_what_torch_computes(entry: Entry) -> None:
    graph, seconds = timed(entry)
    if entry.name.startswith(HEADS):
        # a core is shared: its caches, too
        assert seconds <= HEAD_SECONDS or any(timed(entry)[1] <= HEAD_SECONDS for _ in range(5))
    parity = graph.parity
    assert parity.cases >= 8
    assert parity.median_error <= parity.tolerance / 10
    # torch's own float32 is that far off at such an input
    assert parity.worst_error <= parity.tolerance or parity.arbiter == "float64"
    assert set(graph.writes) == (
        set(entry.tensors) - set(entry.frozen) - read_only(entry) if entry.is_step else set()
    )
    assert len(onnx.load_from_string(graph.model).graph.node) == graph.nodes > 0
    if KEEP:
        keep(entry, graph, Path(KEEP))


def timed(entry: Entry) -> tuple[CompiledGraph, float]:
    """The graph, and seconds of the process, which has one thread: what others do on the machine
    does not count.
    """
    start = time.process_time()
    return entry.compile(), time.process_time() - start


def read_only(entry: Entry) -> set[str]:
    """Tensors of a step that are state of another one."""
    return (
        {"ridge.gram", "ridge.moment"}
        if entry.name in ("ridge, Newton-Schulz", "ridge, conjugate gradients")
        else set()
    )


def test_names_are_unique() -> None:
    assert len({entry.name for entry in GALLERY}) == len(GALLERY) > 80
