"""Does this machine compute what the host computed? A few inputs that everybody can make, and the
features that the host got for them.

An encoder in float16 or int8 depends on kernels that differ from machine to machine, and some are
wrong: ONNX Runtime 1.23 on x86 with AMX gives a convolution of 24 channels in int8 noise in the
last eight. Such an answer is finite and looks like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import InputSpec, PrecisionSpec
from edgeadapt.errors import BundleError, RuntimeUnavailable
from edgeadapt.runtime import Executable, Tensors

_COUNT = 4  # inputs
_COLUMNS = 64  # of the feature that are compared, at most
_GOLDEN = 0.6180339887498949
LEAST_TOLERANCE = 0.05
"""|z - z_host| / |z_host| over all probes that a device may be off, at least. Rounding in another
order gave a hundredth, a wrong kernel a tenth.
"""


def probe_inputs(spec: InputSpec) -> NDArray[np.uint8] | NDArray[np.float32]:
    """(4, ...) inputs that the contract accepts, the same on every machine: two ramps and two
    patterns that look like noise.

    Values are spread over ``range``, or over two standard deviations around the mean where an input
    has units of its own.
    """
    size = int(np.prod(spec.shape))
    places = np.arange(size, dtype=np.float64)
    noise = (np.arange(1, 2 * size + 1, dtype=np.float64) * _GOLDEN) % 1.0
    spread = np.stack(
        [places / max(size - 1, 1), 1.0 - places / max(size - 1, 1), noise[:size], noise[size:]]
    ).reshape(_COUNT, *spec.shape)
    if spec.dtype == "uint8":
        return np.asarray((spread * 255.0).round(), np.uint8)
    if spec.range is not None:
        low, high = spec.range
        return np.asarray(low + spread * (high - low), np.float32)
    if spec.mean:
        axis = len(spec.shape) if spec.layout == "NHWC" else 1
        shape = [-1 if place == axis else 1 for place in range(1 + len(spec.shape))]
        mean, std = (np.array(values).reshape(shape) for values in (spec.mean, spec.std))
        return np.asarray(mean + 2.0 * (2.0 * spread - 1.0) * std, np.float32)
    return np.asarray(2.0 * spread - 1.0, np.float32)


def probe_features(encode: Executable, spec: InputSpec) -> NDArray[np.float32]:
    """(P,) what an encoder makes of :func:`probe_inputs`: up to 64 evenly placed columns of each
    feature, in one row.
    """
    return compared(encode({"x": probe_inputs(spec)}, Tensors())[0]["z"])


def compared(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P,) of features (4, D) of the probes."""
    places = np.linspace(0, z.shape[1] - 1, min(_COLUMNS, z.shape[1]))
    found: NDArray[np.float32] = z[:, np.unique(places.round().astype(np.int64))].ravel()
    return found


def distance_between(here: NDArray[Any], there: NDArray[Any]) -> float:
    """|here - there| / |there|; infinite if they are no features of the same encoder."""
    if here.shape != there.shape:
        return float("inf")
    return float(np.linalg.norm(here - there) / max(float(np.linalg.norm(there)), 1e-12))


def check_probe(encode: Executable, spec: InputSpec, variant: PrecisionSpec, where: str) -> None:
    """Refuse a machine on which a variant of the encoder is another encoder.

    Args:
        where: what runs the graph, for the message.

    Raises:
        BundleError: the manifest has another number of probe features than the encoder gives.
        RuntimeUnavailable: its features of the probes are not those of the host.
    """
    there = np.array(variant.probe)
    here = probe_features(encode, spec)
    if here.shape != there.shape:
        raise BundleError(
            f"manifest.json: the probe of the {variant.precision} encoder has {len(there)} numbers,"
            f" it gives {len(here)}"
        )
    distance = distance_between(here, there)
    if not distance <= variant.probe_tolerance:
        raise RuntimeUnavailable(
            f"the {variant.precision} encoder does not compute here what it did on the host:"
            f" features of the probes differ by {distance:.2g} of their size,"
            f" {variant.probe_tolerance:.2g} is allowed ({where}); open the bundle with"
            " precision='float32', or with another runtime or version"
        )
