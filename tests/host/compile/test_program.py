"""A trace is exported as it is: what torch.export would make of it, without being traced again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from onnx import ModelProto
from torch import Tensor

from edgeadapt.host.compile import compile_inference, emit

W = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
TABLE = torch.arange(6.0)


def with_a_constant(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w + TABLE).softmax(dim=1)


def by_batch(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).reshape(x.shape[0], 2, 3) / x.shape[0]


def with_a_gradient(x: Tensor, w: Tensor) -> Tensor:
    return torch.func.grad(lambda a: (a @ w).tanh().square().sum())(x)


def compiled(fn: Callable[[Tensor, Tensor], Tensor]) -> list[str]:
    """The nodes, which may stand in another order where the batch is read."""

    def ports(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        return {"x": torch.randn(batch, 6, generator=generator)}

    made = compile_inference(
        "one", lambda p, t: ({"out": fn(p["x"], t["a.w"])}, {}), ports, {"a.w": W}
    )
    return sorted(
        f"{n.op_type} {n.attribute}" for n in ModelProto.FromString(made.model).graph.node
    )


@pytest.mark.parametrize("fn", [with_a_constant, by_batch, with_a_gradient])
def test_the_graph_is_the_one_that_torch_exports(
    monkeypatch: pytest.MonkeyPatch, fn: Callable[[Tensor, Tensor], Tensor]
) -> None:
    asked = []
    export = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: asked.append(1) or export(*a, **k))
    short = compiled(fn)
    assert not asked
    monkeypatch.setattr(emit, "as_program", lambda module, arguments: None)
    assert compiled(fn) == short
    assert asked
