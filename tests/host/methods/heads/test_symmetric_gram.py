"""A Gram matrix that is made its own transpose is half as long in a file and solves to the same
head.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt.bundle._packed_forms import packed, unpacked
from edgeadapt.bundle.packed_gram import mirrored
from edgeadapt.bundle.packed_gram import unpacked as square_of
from edgeadapt.device.numerics.linalg import NUMERICS
from edgeadapt.host.contracts import FactoryData, with_evidence
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.heads.slda import StreamingLDA

WIDTH, CLASSES, SLOTS = 40, 4, 6


def evidence(decades: float) -> FactoryData:
    """Features whose columns differ in size by so many decades, and with an offset that is larger
    than all of them.
    """
    rng = np.random.default_rng(0)
    y = np.arange(400) % CLASSES
    z = (
        rng.standard_normal((CLASSES, WIDTH))[y] + rng.standard_normal((400, WIDTH))
    ) * np.logspace(-decades / 2, decades / 2, WIDTH)
    return FactoryData(
        z.astype(np.float32) + np.float32(3),
        np.zeros((400, 0), np.float32),
        y,
        np.full(400, 0.37, np.float32),
        SLOTS,
    )


@pytest.mark.parametrize("decades", [0, 3, 6])
@pytest.mark.parametrize(
    "head", [StreamingLDA(), Ridge(packed=True), Ridge()], ids=["slda", "ridge packed", "ridge"]
)
def test_the_head_of_a_stored_gram_matrix_answers_as_that_of_the_sums(
    head: StreamingLDA | Ridge, decades: float
) -> None:
    data = evidence(decades)
    stored = head.factory(data)
    gram = next(spec for spec in head.tensors(data.dims) if spec.name.endswith(".gram"))
    lies = packed(gram, CLASSES, stored[gram.name])
    assert lies.size == (WIDTH + 1) * (WIDTH + 2) // 2 and lies.dtype == np.float32
    back = unpacked(gram, lies)
    assert back.tobytes() == stored[gram.name].tobytes()
    square = square_of(back, WIDTH + 1)
    assert np.array_equal(square, square.T)

    sums = with_evidence(head, {}, data)
    step = 2.0**-21 * np.abs(sums[gram.name]).max()
    assert np.abs(sums[gram.name] - back).max() <= step  # of rounding alone
    numeric = head.numerics()[0]
    logits = []
    for values in (sums, stored | {gram.name: back}):
        weight = NUMERICS[numeric.numeric](
            *(values[name] for name in numeric.reads), **numeric.arguments
        )[0]
        logits.append(np.hstack([data.z, np.ones((400, 1), np.float32)]) @ weight)
    scale = np.abs(logits[0]).max()
    assert np.abs(logits[0] - logits[1]).max() < 1e-3 * scale
    assert (
        logits[0][:, :CLASSES].argmax(axis=1) == logits[1][:, :CLASSES].argmax(axis=1)
    ).mean() > 0.995


def test_what_is_above_the_diagonal_is_below_it_too() -> None:
    square = np.random.default_rng(1).standard_normal((9, 9)).astype(np.float32)
    made = mirrored(square)
    assert np.array_equal(np.triu(made), np.triu(square)) and np.array_equal(made, made.T)
