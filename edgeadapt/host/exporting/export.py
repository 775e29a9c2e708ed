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

from edgeadapt.bundle import Bundle
from edgeadapt.errors import InputError
from edgeadapt.host.data.class_numbers import class_names
from edgeadapt.host.encoders.dispatch import as_encoder
from edgeadapt.host.exporting.calibrated import calibrate
from edgeadapt.host.exporting.compiled import compile_graphs
from edgeadapt.host.exporting.encoded import Progress, encode
from edgeadapt.host.exporting.packed import pack
from edgeadapt.host.exporting.samples import Samples
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
    samples = Samples.of(calibration, names, groups)
    say(f"encoder: {len(samples.x)} calibration samples of {len(names)} classes")
    source = as_encoder(
        encoder,
        samples.x,
        colour=chosen.colour,
        range=chosen.range,
        resize=chosen.resize,
        feature=chosen.feature,
        taps=chosen.taps,
    )
    encoded = encode(source, samples, chosen, say)
    calibrated = calibrate(encoded)
    compiled = compile_graphs(calibrated)
    stressed = stress(compiled)
    adapt = stressed.adapt
    bundle = pack(stressed.compiled, adapt, stressed.card).write(Path(path), private_key)
    say(f"wrote {path}: {bundle.bytes / 2**20:.2f} MiB, adapt = {adapt.mode} ({adapt.reason})")
    return bundle


def _silent(line: str) -> None:
    """Says nothing."""


def _to_stderr() -> Progress:
    """What is being done, with the seconds since now."""
    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    return say
