"""Any encoder becomes one pure function: pixels in, a feature and pooled taps out.

Batch-normalisation is replaced by one scale and one shift per channel, kept as frozen constants of their own. ONNX Runtime
folds them into the convolutions when it loads the graph, and a re-folded encoder is the same graph with other constants.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError
from edgeadapt.host.methods.base import Values

TAP_LIMIT = 128
"""Taps are at most this wide, so that residuals stay within 256 columns."""


class Encoder(Protocol):
    """What ``export`` needs of an encoder."""

    name: str
    input: InputSpec
    dim: int
    tap_dim: int
    signature: tuple[int, int]  # tap columns from early layers, where a condition shows and a class does not
    frozen: dict[str, Tensor]  # named ``encoder.*``
    norms: tuple[NormLayer, ...]  # empty: no statistics to adapt

    def encode(self, ports: Values, t: Values) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class NormLayer:
    """One batch-norm: where its scale and shift live, and what it was trained with."""

    path: str
    channels: int
    eps: float
    gain: Tensor
    offset: Tensor
    mean: Tensor
    variance: Tensor


class Identity:
    """No encoder: feature vectors are first-class inputs (``host.export(path, host.Identity(dim), ...)``)."""

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise InputError(f"a feature vector has at least one value, got dim={dim}")
        self.name = f"identity-{dim}"
        self.dim, self.tap_dim = dim, 0
        self.signature = (0, min(dim, 48))
        self.frozen: dict[str, Tensor] = {}
        self.norms: tuple[NormLayer, ...] = ()
        self.input = InputSpec(layout="features", dtype="float32", shape=(dim,))

    def encode(self, ports: Values, t: Values) -> dict[str, Tensor]:
        return {"z": ports["x"], "taps": ports["x"][:, :0]}


class _ScaleShift(nn.Module):
    """``x * scale + shift`` per channel: a batch-norm after training."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        scale, shift = folded(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)  # type: ignore[arg-type]
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def folded(gain: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift, both (C, 1, 1), of a batch-norm with these statistics."""
    scale = gain / torch.sqrt(variance + eps)
    return scale[:, None, None], (offset - mean * scale)[:, None, None]


@dataclass
class _Taken:
    """What one forward pass leaves behind: pooled maps of the tap modules and the input of the classifier."""

    maps: dict[str, Tensor] = field(default_factory=dict)  # averaged over space
    feature: Tensor | None = None


class ModuleEncoder:
    """An ``nn.Module`` with its taps.

    Args:
        module: takes float images (B, C, H, W) in the units of ``spec`` (0..255 for uint8 input).
        spec: the input contract.
        feature: path of the module whose output is the feature; by default the input of the last ``nn.Linear`` that
            runs, or the output if no linear layer runs. Feature maps are averaged over space.
        taps: paths of modules to tap; by default the last feature map at each resolution but the final one.
        channels: reorders NHW/NHWC input into NCHW.
    """

    def __init__(
        self, module: nn.Module, spec: InputSpec, *, name: str = "", feature: str | None = None, taps: Sequence[str] | None = None
    ) -> None:
        self.name = name or type(module).__name__
        self.input = spec
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        self._feature = feature
        modules = dict(self._module.named_modules())
        if feature is not None and feature not in modules:
            raise InputError(f"no module {feature!r} to take the feature from; there are {', '.join(list(modules)[1:25])}")
        runs = self._probe()
        norms = {  # once: what a function reads, or what runs twice, has no scale and statistics of its own
            path: m for path, m in modules.items()
            if path and isinstance(m, nn.BatchNorm2d) and m.running_mean is not None and m.affine and sum(p == path for p, _ in runs) == 1
        }  # fmt: skip
        self.norms = tuple(
            NormLayer(path, n.num_features, n.eps, *(v.detach().clone() for v in (n.weight, n.bias, n.running_mean, n.running_var)))  # type: ignore[union-attr]
            for path, n in norms.items()
        )
        for path, norm in norms.items():
            replace_module(self._module, path, _ScaleShift(norm))
        self._taps, width = self._choose_taps(taps, runs)
        floats = {path: value for path, value in tensors_of(self._module).items() if value.is_floating_point()}
        self.frozen = {f"encoder.{path}": value.detach().clone() for path, value in floats.items()}
        self.tap_dim = min(width, TAP_LIMIT)
        if width > TAP_LIMIT:
            generator = torch.Generator().manual_seed(0)
            self.frozen["taps.projection"] = torch.linalg.qr(torch.randn(width, TAP_LIMIT, generator=generator))[0]
        self.signature = (0, self.tap_dim if width > TAP_LIMIT else self._early_width)
        self.dim = int(self.encode({"x": example_input(spec, 2)}, self.frozen)["z"].shape[1])

    def _probe(self) -> list[tuple[str, tuple[int, ...]]]:
        """Path and output shape of every module, as they finish; one that runs twice is there twice."""
        runs: list[tuple[str, tuple[int, ...]]] = []

        def record(path: str) -> Callable[..., None]:
            return lambda _module, _inputs, out: runs.append((path, tuple(out.shape) if isinstance(out, Tensor) else ()))

        hooks = [m.register_forward_hook(record(path)) for path, m in self._module.named_modules() if path]
        example = to_images(example_input(self.input, 2), self.input)
        try:
            with torch.no_grad():
                self._module(example)
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"the encoder does not take float32 inputs of shape {tuple(example.shape)}: {reason}") from error
        finally:
            for hook in hooks:
                hook.remove()
        return runs

    def _choose_taps(self, wanted: Sequence[str] | None, runs: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[tuple[str, ...], int]:
        maps: dict[str, tuple[int, ...]] = {}
        for path, shape in runs:
            maps.pop(path, None)  # the order is that of the last runs
            if len(shape) == 4:
                maps[path] = shape
        if wanted is not None:
            missing = [path for path in wanted if path not in maps]
            if missing:
                raise InputError(f"no module {missing[0]!r} gives a feature map; there are {', '.join(list(maps)[:12])}")
            chosen = tuple(wanted)
        else:
            last_at: dict[tuple[int, ...], str] = {}
            for path, shape in maps.items():
                if min(shape[2:]) > 1:
                    last_at.pop(shape[2:], None)
                    last_at[shape[2:]] = path
            chosen = tuple(last_at.values())[:-1] or tuple(last_at.values())
        widths = [maps[path][1] for path in chosen]
        self._early_width = sum(widths[: max(1, len(widths) - 1)])
        return chosen, sum(widths)

    def encode(self, ports: Values, t: Values) -> dict[str, Tensor]:
        return run_module(self._module, ports["x"], t, self.input, self._taps, self._feature)


def run_module(
    module: nn.Module, x: Tensor, t: Values, spec: InputSpec, taps: Sequence[str], feature: str | None,
    extra: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """One functional pass with the weights of ``t``: features (B, D) and pooled taps (B, T)."""
    taken = _Taken()

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
            taken.maps[path] = out.mean(dim=(2, 3))  # at once: the next layer may write in place

        return hook

    def keep_feature(_module: nn.Module, _inputs: Any, out: Any) -> None:
        taken.feature = out.mean(dim=(2, 3)) if isinstance(out, Tensor) and out.dim() == 4 else out

    def keep_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken.feature = inputs[0]

    hooks = [module.get_submodule(path).register_forward_hook(keep(path)) for path in taps]
    if feature:
        hooks.append(module.get_submodule(feature).register_forward_hook(keep_feature))
    else:
        hooks += [m.register_forward_pre_hook(keep_input) for m in module.modules() if isinstance(m, nn.Linear)]
    try:
        names = {path: t[f"encoder.{path}"] for path in tensors_of(module) if f"encoder.{path}" in t}
        out = torch.func.functional_call(module, {**names, **(extra or {})}, (to_images(x, spec),))
    finally:
        for hook in hooks:
            hook.remove()
    if feature and taken.feature is None:
        raise InputError(f"the module {feature!r} does not run when the encoder does, so it gives no feature")
    z = taken.feature if taken.feature is not None else out
    if not isinstance(z, Tensor):
        raise InputError(f"the encoder returns {type(z).__name__}; name the module whose output is the feature: feature='path'")
    if z.dim() == 4:
        z = z.mean(dim=(2, 3))
    z = z.flatten(1)
    pooled = [taken.maps[path] for path in taps]
    columns = torch.cat(pooled, dim=1) if pooled else z[:, :0]
    if pooled and "taps.projection" in t:
        columns = columns @ t["taps.projection"]
    return {"z": z, "taps": columns}


def to_images(x: Tensor, spec: InputSpec) -> Tensor:
    """A batch in the layout of the input contract -> (B, C, H, W) float32; feature vectors pass through."""
    x = x.to(torch.float32)
    if spec.layout == "NHW":
        return x[:, None]
    if spec.layout == "NHWC":
        return x.permute(0, 3, 1, 2)
    return x


def example_input(spec: InputSpec, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """A random batch that the contract accepts."""
    shape = (batch, *spec.shape)
    if spec.dtype == "uint8":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    low, high = spec.range or (-1.0, 1.0)
    return torch.rand(shape, generator=generator) * (high - low) + low


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, leaf, module)


def as_encoder(source: Any, sample: NDArray[Any], **options: Any) -> Encoder:
    """Dispatch: an ``Encoder``, an ``nn.Module``, a ``torch.export`` program, or the path of an ONNX file.

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
        return ModuleEncoder(source.module(), spec, name="exported-program", feature=feature, taps=taps or ())
    if isinstance(source, nn.Module):
        return ModuleEncoder(source, spec, feature=feature, taps=taps)
    if isinstance(source, (str, os.PathLike)):
        from edgeadapt.host.onnx_encoder import OnnxEncoder

        if taps is not None:
            raise InputError(f"the taps of an ONNX file are chosen from its graph; leave out taps={taps!r}")
        return OnnxEncoder(Path(source), spec, feature=feature)
    if hasattr(source, "frozen") and (hasattr(source, "encode") or hasattr(source, "graph")):
        return source  # type: ignore[no-any-return]
    raise InputError(f"an encoder is a torch module, a torch.export program, an ONNX file or host.Identity, got {type(source).__name__}")


def input_spec(
    sample: NDArray[Any], *, colour: str | None = None, range: tuple[float, float] | None = None, resize: str | None = None
) -> InputSpec:
    """The input contract that calibration inputs imply: uint8 NHW / NHWC images, float NCHW images, or float vectors."""
    x = np.asarray(sample)
    if x.ndim < 2 or len(x) == 0:
        raise InputError(f"calibration inputs are (N, ...) with N >= 1, got shape {x.shape}")
    if x.dtype == np.uint8 and x.ndim == 3:
        layout, channels, axes = "NHW", 1, (0, 1, 2)
    elif x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in (1, 3):
        layout, channels, axes = "NHWC", x.shape[3], (0, 1, 2)
    elif x.dtype == np.float32 and x.ndim == 4:
        layout, channels, axes = "NCHW", x.shape[1], (0, 2, 3)
    elif x.dtype == np.float32:
        return InputSpec(layout="NC", dtype="float32", shape=tuple(x.shape[1:]), range=range)
    else:
        raise InputError(f"calibration inputs are uint8 (N, H, W[, C]) or float32 (N, C, H, W) or (N, ...), got {x.dtype} {x.shape}")
    mean = np.atleast_1d(x.mean(axis=axes, dtype=np.float64))
    std = np.atleast_1d(x.std(axis=axes, dtype=np.float64))
    default = "gray" if channels == 1 else "rgb" if channels == 3 else "none"
    return InputSpec(
        layout=layout, dtype="uint8" if x.dtype == np.uint8 else "float32", shape=tuple(x.shape[1:]), range=range,  # type: ignore[arg-type]
        colour=colour or default, resize=resize or "bilinear", mean=tuple(map(float, mean)), std=tuple(map(float, std)),  # type: ignore[arg-type]
    )  # fmt: skip
