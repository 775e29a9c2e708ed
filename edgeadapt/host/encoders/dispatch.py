"""Any encoder: a torch module, a ``torch.export`` program, an ONNX file, or none at all for feature
vectors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Values
from edgeadapt.host.encoders.base import SIGNATURE_LIMIT, Encoder, NormLayer, input_spec
from edgeadapt.host.encoders.onnx_file import OnnxEncoder
from edgeadapt.host.encoders.onnx_input import OnnxFile
from edgeadapt.host.encoders.torch_module import ModuleEncoder


class Identity:
    """No encoder: feature vectors are first-class inputs (``host.export(path, host.Identity(dim),
    ...)``).
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise InputError(f"a feature vector has at least one value, got dim={dim}")
        self.name = f"identity-{dim}"
        self.dim, self.tap_dim = dim, 0
        self.signature = (0, min(dim, SIGNATURE_LIMIT))
        self.frozen: dict[str, Tensor] = {}
        self.norms: tuple[NormLayer, ...] = ()
        self.input = InputSpec(layout="features", dtype="float32", shape=(dim,))

    def encode(self, ports: Values, t: Values) -> dict[str, Tensor]:
        return {"z": ports["x"], "taps": ports["x"][:, :0]}


def as_encoder(source: Any, sample: NDArray[Any], **options: Any) -> Encoder:
    """Dispatch: an ``Encoder``, an ``nn.Module``, a ``torch.export`` program, or an ONNX file: a
    path or an ``OnnxFile``.

    Args:
        source: the encoder.
        sample: a few calibration inputs; their layout and dtype become the input contract.
        options: ``colour``, ``range``, ``resize``, ``feature``, ``taps``.

    Raises:
        InputError: nothing that can be an encoder, or inputs it does not take.
    """
    if isinstance(source, Identity):
        return source
    feature, taps = options.pop("feature", None), options.pop("taps", None)
    spec = input_spec(sample, **options)
    if isinstance(source, torch.export.ExportedProgram):
        return ModuleEncoder(
            source.module(),
            spec,
            name="exported-program",
            feature=feature,
            taps=taps or (),
            inputs=sample,
        )
    if isinstance(source, nn.Module):
        return ModuleEncoder(source, spec, feature=feature, taps=taps, inputs=sample)
    pixels = source.input if isinstance(source, OnnxFile) else None
    source = source.path if isinstance(source, OnnxFile) else source
    if isinstance(source, (str, os.PathLike)):
        if taps is not None:
            raise InputError(
                f"the taps of an ONNX file are chosen from its graph; leave out taps={taps!r}"
            )
        return OnnxEncoder(Path(source), spec, feature=feature, pixels=pixels)
    if hasattr(source, "frozen") and (hasattr(source, "encode") or hasattr(source, "graph")):
        return source  # type: ignore[no-any-return]
    raise InputError(
        "an encoder is a torch module, a torch.export program, an ONNX file or host.Identity, got"
        f" {type(source).__name__}"
    )
