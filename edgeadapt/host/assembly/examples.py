"""What the graphs of a bundle are traced and checked on: values of its tensors, and features of
factory samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeadapt.host.compile import CompiledGraph, Step, compile_graph
from edgeadapt.host.contracts import FactoryData

Ports = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Examples:
    """Values of tensors by name, which of them are frozen, and the samples features are drawn
    from.
    """

    tensors: Ports
    frozen: tuple[str, ...]
    data: FactoryData

    def features(self, generator: torch.Generator, batch: int) -> Ports:
        """``z`` (B, D) and, where there are any, ``taps`` (B, T)."""
        rows = torch.randint(0, len(self.data.y), (batch,), generator=generator).numpy()
        ports = {"z": torch.from_numpy(self.data.z[rows].copy())}
        return ports | (
            {"taps": torch.from_numpy(self.data.taps[rows].copy())} if self.data.dims.taps else {}
        )

    def labels(self, generator: torch.Generator, batch: int) -> Tensor:
        """(B,) int64 slots of known classes."""
        return torch.randint(0, len(self.data.classes), (batch,), generator=generator)

    def compile(
        self,
        name: str,
        fn: Step,
        make_ports: Callable[[torch.Generator, int], Ports],
        **options: Any,
    ) -> CompiledGraph:
        """``compile_graph`` on these tensors."""
        return compile_graph(name, fn, make_ports, self.tensors, frozen=self.frozen, **options)
