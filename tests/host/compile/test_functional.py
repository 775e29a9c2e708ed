"""Writes inside a trace become values before the export, and only where they make no difference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgeadapt.host.compile import compile_inference, exporter
from edgeadapt.host.compile.trace import trace

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def in_a_chain(x: Tensor, w: Tensor) -> Tensor:
    h = x @ w
    kept = h.relu_()
    return kept.add_(x) + h  # h has the sum by then


def on_a_view(x: Tensor, w: Tensor) -> Tensor:
    h = (x @ w).unsqueeze(0)
    return h.mul_(2.0).squeeze(0)  # nothing reads the product itself


def on_a_view_whose_base_is_read(x: Tensor, w: Tensor) -> Tensor:
    h = x @ w
    h.view(-1).mul_(2.0)
    return h


def copied(x: Tensor, w: Tensor) -> Tensor:
    h = torch.empty_like(x).copy_(x @ w)
    return h + x


def copied_and_written_to(x: Tensor, w: Tensor) -> Tensor:
    y = x @ w
    h = torch.empty_like(y).copy_(y)
    h.mul_(10.0)
    return h + y  # eleven times the product


def written(fn: Callable[[Tensor, Tensor], Tensor]) -> list[str]:
    traced = trace(
        "step", lambda p, t: ({"z": fn(p["x"], t["a.w"])}, {}), {"x": X}, {"a.w": X[:1].T @ X[:1]}
    )
    return [
        str(node.target)
        for node in traced.module.graph.nodes
        if node.op == "call_function"
        and getattr(getattr(node.target, "_schema", None), "is_mutable", False)
    ]


@pytest.mark.parametrize("fn", [in_a_chain, on_a_view, copied, copied_and_written_to])
def test_a_write_that_nothing_else_sees_becomes_a_value(
    fn: Callable[[Tensor, Tensor], Tensor],
) -> None:
    assert written(fn) == []


def test_a_write_to_a_view_whose_base_is_read_is_left_to_the_exporter() -> None:
    assert written(on_a_view_whose_base_is_read) == ["aten.mul_.Tensor"]


@pytest.mark.parametrize(
    "fn", [in_a_chain, on_a_view, copied, copied_and_written_to, on_a_view_whose_base_is_read]
)
def test_the_graph_computes_what_the_function_does(fn: Callable[[Tensor, Tensor], Tensor]) -> None:
    graph = compile_inference(
        "step",
        lambda p, t: ({"z": fn(p["x"], t["a.w"])}, {}),
        lambda g, batch: {"x": torch.randn(batch, 6, generator=g)},
        {"a.w": X[:1].T @ X[:1]},
    )
    assert graph.parity.worst_error < 1e-5 and graph.parity.cases >= 8


def test_a_network_with_writes_in_place_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    needed = exporter._needs_it
    monkeypatch.setattr(
        exporter, "_needs_it", lambda node, table: found.append(needed(node, table)) or found[-1]
    )
    block = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True), torch.nn.AdaptiveAvgPool2d(1)
    )
    compile_inference(
        "net",
        lambda p, t: ({"z": block(p["x"]).flatten(1).squeeze(-1)}, {}),
        lambda g, batch: {"x": torch.randn(batch, 3, 8, 8, generator=g)},
        {"a.b": X},
    )
    assert found and not any(found)
