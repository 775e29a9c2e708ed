"""Writes ``executorch.pte``: the adaptor's forward and backward as one ExecuTorch program for
XNNPACK.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor, nn
from torch.export import export
from torch.export.experimental import _export_forward_backward


class Adaptor(nn.Module):
    """The loss of the adaptor."""

    def __init__(self, width: int, bottleneck: int, classes: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.head(x + self.up(F.gelu(self.down(self.norm(x))))), y)


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    network = Adaptor(*(settings[name] for name in ("width", "bottleneck", "classes", "eps")))
    other = {"norm.gain": "norm.weight", "norm.offset": "norm.bias"}
    with np.load(folder / "start.npz") as given:
        network.load_state_dict(
            {other.get(name, name): torch.from_numpy(given[name]) for name in given.files}
        )
    with np.load(folder / "inputs.npz") as given:
        x, y = torch.from_numpy(given["x"][0]), torch.from_numpy(given["y"][0])
    joint = _export_forward_backward(export(network, (x, y), strict=True))
    program = to_edge_transform_and_lower(joint, partitioner=[XnnpackPartitioner()]).to_executorch()
    (folder / "executorch.pte").write_bytes(program.buffer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
