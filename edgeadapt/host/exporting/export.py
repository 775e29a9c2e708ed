"""From an encoder and calibration data to a signed bundle with everything a device needs to keep
learning.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.errors import InputError
from edgeadapt.host.assembly.calibration import check_counts
from edgeadapt.host.data.class_numbers import class_names, class_numbers
from edgeadapt.host.encoders.base import Encoder
from edgeadapt.host.encoders.dispatch import Identity, as_encoder
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.exporting.calibrated import calibrate
from edgeadapt.host.exporting.compiled import Compiler
from edgeadapt.host.exporting.encoded import Calibration, Progress, encode
from edgeadapt.host.exporting.packed import pack
from edgeadapt.host.exporting.settings import Settings
from edgeadapt.host.exporting.stressed import stress


def export(
    path: str | os.PathLike[str],
    encoder: Any,
    calibration: tuple[Any, Any],
    classes: Sequence[str] | None = None,
    *,
    groups: Sequence[Any] | None = None,
    private_key: bytes | None = None,
    progress: Progress | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Bundle:
    """Compile, calibrate, stress and write a bundle.

    Args:
        path: of the ``.edge`` file.
        encoder: ``nn.Module``, ``torch.export`` program, ONNX path, or ``host.Identity(dim)`` for
            feature vectors.
        calibration: inputs (N, ...) and labels (N,), class names or integers that index
            ``classes``; data the encoder was not trained on, at least five of each class. All of
            them teach; they also judge, each by what was fitted without it.
        classes: names of the known classes; by default those among the labels, sorted.
        groups: of every sample the recording, person, day or site it is from, two or more. No group
            lies on both sides of a judgement, and rows of a group are in the order of time: their
            windows set thresholds too. None: samples are independent.
        private_key: ed25519 PEM; the bundle is signed with it.
        progress: called with one line per stage; by default each goes to standard error with the
            seconds since the start.
        quiet: no line at all.
        settings: fields of ``Settings``.

    Returns:
        The bundle as a device will read it.

    Raises:
        InputError: calibration data or settings that do not fit.
        UnknownClassError: a label that is none of ``classes``.
        CompileError: a graph could not be compiled or checked.
    """
    say = _silent if quiet else progress or _to_stderr()
    try:
        chosen = Settings(**settings)
    except TypeError as error:
        raise InputError(
            f"unknown setting: {error}; settings are {', '.join(Settings.__dataclass_fields__)}"
        ) from error
    names = class_names(calibration[1]) if classes is None else tuple(str(name) for name in classes)
    chosen.check(names)
    x, y = _calibration_arrays(calibration, names)
    check_counts(y, names)
    say(f"encoder: {len(x)} calibration samples of {len(names)} classes")
    source = as_encoder(
        encoder,
        x,
        colour=chosen.colour,
        range=chosen.range,
        resize=chosen.resize,
        feature=chosen.feature,
        taps=chosen.taps,
    )
    _say_encoder(source, say)
    data = Calibration(x, y, _group_numbers(groups, len(y)), names)
    encoded = encode(source, data, chosen, say)
    calibrated = calibrate(encoded, say)
    stressed = stress(Compiler(calibrated, say), calibrated, say)
    bundle = pack(Path(path), stressed.compiled, stressed.adapt, stressed.card, private_key)
    adapt = bundle.manifest.policy.adapt
    size = f"{bundle.bytes / 2**20:.2f} MiB"
    say(f"wrote {path}: {size}, adapt = {adapt.mode} ({adapt.reason})")
    return bundle


def _silent(line: str) -> None:
    """Says nothing."""


def _to_stderr() -> Progress:
    """What is being done, with the seconds since now."""
    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    return say


def _say_encoder(encoder: Encoder, say: Progress) -> None:
    """Where the feature of a module is taken, and which batch-norms of it cannot adapt."""
    if isinstance(encoder, ModuleEncoder):
        say(f"encoder: the feature is {encoder.feature_from}, {encoder.dim} values")
        if encoder.left_frozen:
            listed = ", ".join(encoder.left_frozen[:5]) + (
                ", ..." if len(encoder.left_frozen) > 5 else ""
            )
            say(f"encoder: {len(encoder.left_frozen)} batch-norms stay as trained: {listed}")


def _calibration_arrays(
    calibration: tuple[Any, Any], classes: Sequence[str]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    x, y = np.asarray(calibration[0]), class_numbers(calibration[1], classes)
    if len(x) != len(y) or not len(y):
        raise InputError(
            f"calibration is (inputs (N, ...), labels (N,)), got {x.shape} and {y.shape}"
        )
    if x.dtype == np.float64:
        x = x.astype(np.float32)
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise InputError("calibration inputs have values that are not finite")
    return x, y


def _group_numbers(groups: Sequence[Any] | None, count: int) -> NDArray[np.int64] | None:
    """(N,) a number for every group, or None.

    Raises:
        InputError: not one group for each sample.
    """
    if groups is None:
        return None
    given = np.asarray(groups)
    if given.shape != (count,):
        raise InputError(
            f"groups names the group of each of {count} calibration samples, got shape"
            f" {given.shape}"
        )
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


__all__ = ["Identity", "Settings", "export"]
