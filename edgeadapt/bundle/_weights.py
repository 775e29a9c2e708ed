"""The three weight files of a bundle, as arrays checked against the manifest.

``frozen`` never changes after export, ``factory`` has the initial values of everything else,
``guard`` the labelled factory features that judge later changes. A file keeps a tensor in fewer
bytes where nothing is lost (``_packed_forms``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgeadapt.bundle._container import MAX_ARCHIVE_BYTES
from edgeadapt.bundle._packed_forms import forms, packed, unpacked
from edgeadapt.bundle.schema import PLAIN_FORMAT, Manifest, TensorSpec, encoder_tensors
from edgeadapt.errors import BundleError

FROZEN = "weights/frozen.safetensors"
FACTORY = "weights/factory.safetensors"
GUARD = "weights/guard.safetensors"
Arrays = dict[str, NDArray[Any]]

_DTYPES = {
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_MAX_HEADER_BYTES = 4 << 20


class _Listed(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]


def encode_weights(manifest: Manifest, member: str, values: Mapping[str, NDArray[Any]]) -> bytes:
    """Safetensors bytes of one weight file, each in its smallest form; equal values, equal bytes.

    Raises:
        BundleError: as for :func:`decode_weights`.
    """
    arrays = {}
    for name in sorted(values):
        array = np.asarray(values[name])
        arrays[name] = np.require(array, array.dtype.newbyteorder("<"), "C")
    _check_listed(manifest, member, _types_of(arrays))
    _check_values(manifest, member, arrays)
    for name, spec in _packable(manifest, member).items():
        if name in arrays:
            arrays[name] = packed(spec, len(manifest.classes), arrays[name])
    return save(arrays)


def decode_weights(manifest: Manifest, member: str, data: bytes) -> Arrays:
    """Read-only arrays of one weight file.

    Raises:
        BundleError: malformed, a tensor the manifest does not place in this file, another dtype or
            shape, or values that are not finite.
    """
    try:
        arrays: Arrays = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{member}: not a safetensors file: {error}") from None
    _check_listed(manifest, member, _types_of(arrays))
    for name, spec in _packable(manifest, member).items():
        if name in arrays:
            arrays[name] = unpacked(spec, arrays[name])
    _check_values(manifest, member, arrays)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _types_of(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype.name, array.shape) for name, array in arrays.items()}


def check_header(manifest: Manifest, member: str, start: bytes) -> set[str]:
    """Check names, dtypes and shapes from a weight file's first bytes, without loading a value.

    Args:
        manifest: what the file must agree with.
        member: name of the file.
        start: its first :data:`HEADER_BYTES` bytes, or all of it.

    Returns:
        The tensors it has.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > len(start) - 8:
        raise BundleError(
            f"{member}: not a safetensors file: its header is cut off or above {_MAX_HEADER_BYTES}"
            " bytes"
        )
    try:
        header = msgspec.json.decode(start[8 : 8 + length], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        listed = {name: msgspec.json.decode(raw, type=_Listed) for name, raw in header.items()}
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{member}: not a safetensors file: {error}") from None
    types = {name: (_DTYPES.get(one.dtype, one.dtype), one.shape) for name, one in listed.items()}
    _check_listed(manifest, member, types)
    return set(listed)


HEADER_BYTES = 8 + _MAX_HEADER_BYTES


def check_complete(manifest: Manifest, present: set[str]) -> None:
    """Every tensor must have a value that is neither derived nor starts at zero (parameters that
    are never kept: a momentum).

    Raises:
        BundleError: names the first tensor without one.
    """
    for spec in manifest.tensors:
        starts_at_zero = spec.kind == "parameter" and spec.persist == "never"
        if spec.kind != "derived" and not starts_at_zero and spec.name not in present:
            raise BundleError(
                f"{_file_of(spec)}: no value for {spec.name}, which the manifest declares as"
                f" {spec.kind}"
            )


def tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of one tensor."""
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _file_of(spec: TensorSpec) -> str:
    return FROZEN if spec.kind == "frozen" else FACTORY


def _packable(manifest: Manifest, member: str) -> dict[str, TensorSpec]:
    """Tensors that a file may keep in fewer bytes; the encoder's are hashed as they lie there."""
    if member == GUARD or manifest.format <= PLAIN_FORMAT:
        return {}
    specs = {spec.name: spec for spec in manifest.tensors if _file_of(spec) == member}
    frozen = [spec.name for spec in specs.values() if spec.kind == "frozen"]
    for name in encoder_tensors(frozen, manifest.graphs_for("encode")):
        specs.pop(name, None)
    return specs


def _check_listed(
    manifest: Manifest, member: str, listed: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    if member == GUARD:
        return _check_guard(manifest, listed)
    if member not in (FROZEN, FACTORY):
        raise BundleError(f"{member}: weight files are {FROZEN}, {FACTORY} and {GUARD}")
    specs = {spec.name: spec for spec in manifest.tensors}
    packable = _packable(manifest, member)
    whole = sum(tensor_bytes(specs[name]) for name in listed if name in specs)
    if whole > MAX_ARCHIVE_BYTES:  # slots that are left out cost a file nothing
        raise BundleError(
            f"{member}: its tensors take {whole} bytes, the limit is {MAX_ARCHIVE_BYTES}"
        )
    for name, (dtype, shape) in listed.items():
        spec = specs.get(name)
        if spec is None:
            raise BundleError(f"{member}: {name} is not a tensor of the manifest")
        if _file_of(spec) != member:
            raise BundleError(f"{member}: {name} is {spec.kind} and belongs in {_file_of(spec)}")
        allowed = forms(spec, len(manifest.classes)) if name in packable else set()
        if (dtype, shape) not in {(spec.dtype, spec.shape), *allowed}:
            raise BundleError(
                f"{member}: {name} is {dtype}{list(shape)}, the manifest says"
                f" {spec.dtype}{list(spec.shape)}"
            )


def _check_guard(manifest: Manifest, listed: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """z (N, D) and taps (N, T) floating point, y (N,) int64; taps only where the encoder has any.

    ``own`` (N, factory classes) and ``weight`` (N,), in bundles whose head learned these samples
    too: what each adds to its own logits, and how much it weighed.
    """
    widths: dict[str, tuple[int, ...]] = {"z": (manifest.feature_dim,), "y": ()}
    if manifest.tap_dim:
        widths |= {"taps": (manifest.tap_dim,)}
    if "own" in listed:
        widths |= {"own": (len(manifest.classes),), "weight": ()}
    if set(listed) != set(widths):
        raise BundleError(f"{GUARD}: has {sorted(listed)}, expected {sorted(widths)}")
    count = listed["z"][1][:1]
    for name, (dtype, shape) in listed.items():
        allowed = ("int64",) if name == "y" else ("float32", "float16")
        if dtype not in allowed or shape != count + widths[name]:
            raise BundleError(
                f"{GUARD}: {name} is {dtype}{list(shape)}, expected"
                f" {allowed[0]}{list(count + widths[name])}"
            )


def _check_values(manifest: Manifest, member: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"{member}: {name} has values that are not finite")
    if member == GUARD and manifest.task == "classify":
        y = arrays["y"]
        if y.size and not 0 <= y.min() <= y.max() < len(manifest.classes):
            raise BundleError(
                f"{member}: y has labels {y.min()} to {y.max()}, the manifest has"
                f" {len(manifest.classes)} classes"
            )
