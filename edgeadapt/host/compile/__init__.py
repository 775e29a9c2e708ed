"""A pure torch function becomes a checked ONNX graph: traced, decomposed, emitted, linted, compared
and tried out.

>>> import torch
>>> def learn(ports, tensors):
...     z, w = ports["z"], ports["sample_weight"]
...     return {}, {"sums.z": tensors["sums.z"] + w @ z}
>>> def make_ports(generator, batch):
...     return {"z": torch.randn(batch, 4, generator=generator), "sample_weight": torch.ones(batch)}
>>> graph = compile_step("learn", learn, make_ports, {"sums.z": torch.zeros(4)})
>>> graph.reads, graph.writes, graph.ports[0].shape
(('sums.z',), ('sums.z',), (None, 4))
"""

from __future__ import annotations

from edgeadapt.host.compile.cases import MakePorts
from edgeadapt.host.compile.graph import (
    CompiledGraph,
    compile_graph,
    compile_inference,
    compile_step,
)
from edgeadapt.host.compile.trace import Step

__all__ = [
    "CompiledGraph",
    "MakePorts",
    "Step",
    "compile_graph",
    "compile_inference",
    "compile_step",
]
