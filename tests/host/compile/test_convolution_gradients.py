"""Gradients of convolutions of one to three axes, plain and transposed, against torch in
float64.
"""

from __future__ import annotations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgeadapt.host.compile.decompose.convolution import convolution_backward

aten = torch.ops.aten


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rank=st.integers(1, 3), groups=st.integers(1, 3), transposed=st.booleans(), data=st.data())
def test_any_stride_padding_dilation_and_groups(rank, groups, transposed, data):
    def each(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(rank)]

    kernel = each(1, 3)
    stride = each(1, 3)
    dilation = each(1, 2)
    padding = each(0, 3)
    size = each(3, 6)
    extra = (
        [data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
        if transposed
        else [0] * rank
    )
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if transposed:
        assume(
            all(
                (n - 1) * s - 2 * p + r + e + 1 > 0
                for n, s, p, r, e in zip(size, stride, padding, reach, extra, strict=True)
            )
        )
    else:
        assume(all(n + 2 * p > r for n, p, r in zip(size, padding, reach, strict=True)))
    generator = torch.Generator().manual_seed(0)
    channels, outputs = 2 * groups, 3 * groups
    x = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    shape = (channels, 3, *kernel) if transposed else (outputs, 2, *kernel)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    settings_ = (stride, padding, dilation, transposed, extra, groups)
    out = aten.convolution.default(x, weight, None, *settings_)
    toward = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    want = aten.convolution_backward.default(toward, x, weight, [outputs], *settings_, [True] * 3)
    got = convolution_backward(toward, x, weight, [outputs], *settings_, [True] * 3)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-10)
