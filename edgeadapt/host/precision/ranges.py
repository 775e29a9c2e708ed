"""How large the values inside an encoder get: run over calibration inputs, each value's sizes
counted in a histogram.

    clip = argmin_T  sum_b n_b ( [v_b <= T] s^2 / 12 + [v_b > T] (v_b - T)^2 ),   s = T / 127

is where int8 loses least in the mean square: rounding within, clipping beyond (as in Choukroun et
al., ICCV-W 2019, arXiv 1902.06822).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

LEVELS = 127  # of a symmetric int8 number, on each side of zero
_BINS = 2048
_CHUNK = 16  # inputs at a time: every inner value is held


class Histogram:
    """Sizes of the values of one tensor; the range doubles when a larger one comes.

    Attributes:
        largest: of all; infinite if one was infinite (a mask) or no number. Such values are not
            counted.
    """

    def __init__(self) -> None:
        self.top = 0.0
        self.largest = 0.0
        self.counts: NDArray[np.float64] = np.zeros(_BINS)

    def add(self, values: NDArray[Any]) -> None:
        sizes = np.abs(values, dtype=np.float32).ravel()
        finite = sizes[np.isfinite(sizes)]
        largest = float(finite.max(initial=0.0))
        self.largest = max(self.largest, largest) if len(finite) == len(sizes) else float("inf")
        if largest == 0.0:
            return
        if self.top == 0.0:
            self.top = largest
        while largest > self.top:
            self.counts = np.concatenate(
                [self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2)]
            )
            self.top *= 2
        self.counts += np.histogram(finite, bins=_BINS, range=(0.0, self.top))[0]

    def clip(self) -> float:
        """Where int8 loses least; zeros are kept exactly and count for nothing. 1 for a tensor that
        is always zero.
        """
        if self.top == 0.0:
            return 1.0
        width = self.top / _BINS
        middle = (np.arange(_BINS) + 0.5) * width
        places = np.arange(_BINS // 16, _BINS + 1)  # candidates: edges of bins
        candidates = np.minimum(places * width, self.largest)
        sums = [
            np.concatenate([[0.0], np.cumsum(self.counts * middle**power)]) for power in (0, 1, 2)
        ]
        inside = sums[0][places]
        n, first, second = (total[-1] - total[places] for total in sums)
        loss = (
            inside * (candidates / LEVELS) ** 2 / 12
            + second
            - 2 * candidates * first
            + n * candidates**2
        )
        return float(candidates[int(np.argmin(loss))])


def histograms(
    model: ModelProto,
    frozen: Mapping[str, NDArray[Any]],
    names: Iterable[str],
    batches: Sequence[NDArray[Any]],
) -> dict[str, Histogram]:
    """Sizes of named inner values over inputs.

    Args:
        model: an encoder's float32 graph.
        frozen: its external tensors.
        names: of float32 values inside it.
        batches: inputs (N, ...) as the port ``x`` takes them.
    """
    wanted = sorted(set(names))
    watched = ModelProto()
    watched.CopyFrom(model)
    given = {value.name for value in model.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in wanted
        if name not in given
    )
    session = open_session(watched, frozen, optimised=False)
    found = {name: Histogram() for name in wanted}
    for batch in batches:
        for start in range(0, len(batch), _CHUNK):
            for name, value in zip(
                wanted, session.run(wanted, {"x": batch[start : start + _CHUNK]}), strict=True
            ):
                found[name].add(value)
    return found


def open_session(
    model: ModelProto, frozen: Mapping[str, NDArray[Any]], *, optimised: bool
) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU; without its optimiser every node is computed as it is written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    external = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    if external:
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(frozen[name], order="C"))
            for name in external
        ]
        options.add_external_initializers(external, values)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
