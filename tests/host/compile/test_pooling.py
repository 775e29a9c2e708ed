"""Gradients of pooling against torch: where windows overlap, where the maximum is not unique, where
a window is cut off.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.errors import CompileError
from edgeadapt.host.compile import compile_graph
from edgeadapt.host.compile.decompose import pooling

aten = torch.ops.aten


def whole_numbers(seed: int, *shape: int) -> torch.Tensor:
    """Few distinct values, so that most windows hold their maximum more than once."""
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed)).float()


def slope(fn, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``(a gradient for the output, its gradient for x)`` by torch; the first of whole numbers, so
    that sums are exact.
    """
    x = x.clone().requires_grad_()
    out = fn(x)
    toward = torch.arange(out.numel()).reshape(out.shape).to(x.dtype) - 3
    return toward, torch.autograd.grad(out, x, toward)[0]


windows = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kernel=windows,
    stride=windows,
    data=st.data(),
    size=st.tuples(st.integers(4, 11), st.integers(4, 11)),
    ceil_mode=st.booleans(),
)
def test_the_first_of_equal_maxima_takes_the_gradient_as_in_torch(
    kernel, stride, data, size, ceil_mode
):
    padding = tuple(data.draw(st.integers(0, width // 2)) for width in kernel)
    dilation = data.draw(st.sampled_from([(1, 1), (1, 2), (2, 1)])) if min(size) > 6 else (1, 1)
    x = whole_numbers(data.draw(st.integers(0, 99)), 2, 3, *size)
    if any(size[i] + 2 * padding[i] < dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)):
        return
    toward, want = slope(lambda v: F.max_pool2d(v, kernel, stride, padding, dilation, ceil_mode), x)
    got = pooling.max_pool2d_with_indices_backward(
        toward, x, kernel, stride, padding, dilation, ceil_mode, torch.empty(0)
    )
    assert torch.equal(got, want)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    height=st.integers(3, 7),
    width=st.integers(3, 7),
    seed=st.integers(0, 99),
)
def test_wide_windows_side_by_side_agree_with_torch_too(rows, columns, height, width, seed):
    x = whole_numbers(seed, 2, 2, rows * height, columns * width)
    toward, want = slope(lambda v: F.adaptive_max_pool2d(v, (rows, columns)), x)
    assert torch.equal(pooling.adaptive_max_pool2d_backward(toward, x, torch.empty(0)), want)
    assert torch.equal(pooling._spread_in_tiles(toward, x, [height, width]), want)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kernel=windows,
    stride=windows,
    data=st.data(),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    ceil_mode=st.booleans(),
    counts_padding=st.booleans(),
    divisor=st.sampled_from([None, 3]),
)
def test_the_gradient_of_average_pooling_is_torchs(
    kernel, stride, data, size, ceil_mode, counts_padding, divisor
):
    padding = tuple(data.draw(st.integers(0, width // 2)) for width in kernel)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    toward, want = slope(
        lambda v: F.avg_pool2d(v, kernel, stride, padding, ceil_mode, counts_padding, divisor), x
    )
    got = pooling.avg_pool2d_backward(
        toward, x, kernel, stride, padding, ceil_mode, counts_padding, divisor
    )
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 7), (2, 5)])
def test_adaptive_averages_and_their_gradients_are_torchs(size):
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(1))
    toward, want = slope(lambda v: F.adaptive_avg_pool2d(v, size), x)
    torch.testing.assert_close(
        pooling._adaptive_avg_pool2d(x, size), F.adaptive_avg_pool2d(x, size), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(
        pooling._adaptive_avg_pool2d_backward(toward, x), want, atol=1e-5, rtol=1e-6
    )


@pytest.mark.parametrize(
    "pool",
    [
        pytest.param(lambda x: F.max_pool2d(x, 3, 2, 1), id="overlapping"),
        pytest.param(lambda x: F.adaptive_max_pool2d(x, 1), id="global"),
        pytest.param(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), id="average"),
    ],
)
def test_the_graph_breaks_ties_as_torch_does(pool):
    """Compared by the compiler on whole numbers, with no tolerance for a gradient that went to the
    wrong place.
    """

    def fn(p, t):
        return {"slope": torch.func.grad(lambda x: (pool(x) * t["a.toward"]).sum())(p["x"])}, {}

    def make_ports(generator, batch):
        return {"x": torch.randint(-1, 2, (batch, 2, 5, 4), generator=generator).float()}

    toward = (
        torch.arange(2.0 * pool(torch.zeros(1, 2, 5, 4))[0, 0].numel()).reshape(
            pool(torch.zeros(1, 2, 5, 4))[0].shape
        )
        + 1
    )
    graph = compile_graph("ties", fn, make_ports, {"a.toward": toward}, batch=4)
    assert graph.parity.worst_error <= 1e-6 and graph.parity.arbiter == "float32"


def test_adaptive_max_pooling_with_unequal_windows_is_refused_with_its_sizes():
    def make_ports(generator, batch):
        return {"x": torch.randn(batch, 2, 5, 4, generator=generator)}

    with pytest.raises(CompileError, match=r"adaptive_max_pool2d.*\[5, 4\] to \[3, 2\]"):
        compile_graph(
            "unequal",
            lambda p, t: ({"out": F.adaptive_max_pool2d(p["x"], (3, 2))}, {}),
            make_ports,
            {},
        )
