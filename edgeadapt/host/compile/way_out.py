"""What to write instead of what cannot be compiled."""

from __future__ import annotations

import re

READS_DATA = (
    "Python reads data: use torch.where and fixed shapes (y[:, None] == torch.arange(K), not"
    " one_hot)"
)
MASK = "Keep the shape and mask: torch.where(mask, x, 0)"
ONE_HOT = (
    "use a one-hot matmul (segment sum = onehot(index)^T @ values, onehot = index[:, None] =="
    " torch.arange(n))"
)
SPLIT_COMPLEX = (
    "Keep real and imaginary part as two float tensors; a transform is a product with constant"
    " cosines and sines"
)
FACTORISATION = (
    "Iterate with products (power iteration, Newton-Schulz, conjugate gradients), or keep the sums"
    " as state and solve outside of the graph"
)
VALUES = (
    "Tensors are values: return a new one. A batch-norm in training mode writes its running"
    " statistics: use .eval(), or F.batch_norm(x, None, None, weight, bias, training=True) and an"
    " update of your own"
)

_OF_OPERATORS = {
    r"local_scalar_dense|is_nonzero|\bitem\b|\bequal\b": READS_DATA,
    r"nonzero|masked_select|unique|bincount": MASK,
    r"grid_sampler|upsample|im2col|col2im": (
        "Write it as a product with a matrix of interpolation weights, or do it before the graph"
    ),
    r"linalg_(?!vector_norm|cross)|cholesky|triangular|\blu_|inverse|\bdet\b|lstsq|\bqr\b": (
        FACTORISATION
    ),
    r"fft|complex|view_as_real|polar|\bangle\b": SPLIT_COMPLEX,
    r"cdist|pdist": "Write |a|^2 - 2 a b + |b|^2 with one product",
    r"scatter|index_put|index_add|\bput_": ONE_HOT.capitalize(),
    r"\bsort\b|median|kthvalue|quantile|\bmode\b": (
        "Use torch.topk with a fixed k, and its values rather than its indices"
    ),
    r"prod\b|cummax|cummin|logcumsumexp": "Use sums of logarithms, or unroll it",
    r"lstm|gru|rnn": "Unroll the recurrence over a fixed number of steps",
    r"ctc_loss": "Unroll its forward recursion over a fixed number of steps",
    r"rand|bernoulli|multinomial|dropout|normal|uniform": (
        "Make the noise or the mask a port; a module in eval mode draws none"
    ),
}
_OF_ERRORS = {
    r"DataDependent|data-dependent|\.numpy\(\)|data pointer": READS_DATA,
    r"DynamicOutputShape": MASK,
    r"in-place|inplace|would mutate": VALUES,
    r"SymbolicTensor": (
        "A variance or deviation over a free batch has no gradient here: write the mean of squares,"
        " or use dynamic_batch=False"
    ),
}
_UNKNOWN = (
    "Write the operation out with supported operators, or add it to the table in"
    " edgeadapt/host/compile/decompose"
)
_GENERAL = "Keep the function pure and its shapes fixed"


def way_out(operator: str | None, error: BaseException) -> str:
    """One sentence of advice.

    Args:
        operator: as torch writes it (``aten.grid_sampler_2d_backward.default``); the class of the
            module where Python failed between operators, and None outside of modules.
        error: what was raised.
    """
    text = f"{type(error).__name__} {error}"
    for subject, table in ((text, _OF_ERRORS), (operator or "", _OF_OPERATORS)):
        for pattern, advice in table.items():
            if re.search(pattern, subject, re.IGNORECASE):
                return advice
    return (
        _UNKNOWN
        if isinstance(error, NotImplementedError) or "No ONNX function" in text
        else _GENERAL
    )


__all__ = ["FACTORISATION", "MASK", "ONE_HOT", "READS_DATA", "SPLIT_COMPLEX", "VALUES", "way_out"]
