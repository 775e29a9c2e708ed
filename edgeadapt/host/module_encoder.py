"""A torch module becomes one pure function: pixels in, a feature and pooled taps out.

Batch-normalisation is replaced by one scale and one shift per channel, kept as frozen constants of their own. ONNX Runtime
folds them into the convolutions when it loads the graph, and a re-folded encoder is the same graph with other constants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError
from edgeadapt.host.encoding import SIGNATURE_LIMIT, TAP_LIMIT, NormLayer, example_input, is_map, is_signal, pooled, to_images
from edgeadapt.host.methods.base import Values

_PADDING = (nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd)
"""Never tapped: a tap behind a padding layer keeps the runtime from fusing it into its convolution, at twice the time."""


class _ScaleShift(nn.Module):
    """``x * scale + shift`` per channel: a batch-norm after training. Both are (C, 1, 1) for maps, (C, 1) for signals, (C,) for vectors."""

    def __init__(self, norm: nn.Module, rank: int) -> None:
        super().__init__()
        scale, shift = folded(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)  # type: ignore[arg-type]
        per_channel = (-1, *[1] * (rank - 2))
        self.register_buffer("scale", scale.reshape(per_channel))
        self.register_buffer("shift", shift.reshape(per_channel))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def folded(gain: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift, both (C, 1, 1), of a batch-norm with these statistics."""
    scale = gain / torch.sqrt(variance + eps)
    return scale[:, None, None], (offset - mean * scale)[:, None, None]


@dataclass
class _Taken:
    """What one forward pass leaves behind: pooled maps of the tap modules and the input of the classifier."""

    maps: dict[str, Tensor] = field(default_factory=dict)  # averaged over space or time
    feature: Tensor | None = None


class ModuleEncoder:
    """An ``nn.Module`` with its taps.

    Args:
        module: takes float images (B, C, H, W), signals (B, C, L) or vectors (B, F), in the units of ``spec`` (0..255 for uint8 input).
        spec: the input contract.
        feature: path of the module whose output is the feature; by default the input of the last ``nn.Linear`` that
            runs, or the output if no linear layer runs. Feature maps are averaged over space, those of signals over time.
        taps: paths of modules to tap; by default the last feature map at each resolution but the final one. Vectors have none.
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
            if path and isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) and m.running_mean is not None and m.affine and sum(p == path for p, _ in runs) == 1
        }  # fmt: skip
        self.norms = tuple(
            NormLayer(path, n.num_features, n.eps, *(v.detach().clone() for v in (n.weight, n.bias, n.running_mean, n.running_var)))  # type: ignore[union-attr]
            for path, n in norms.items()
        )
        for path, norm in norms.items():
            replace_module(self._module, path, _ScaleShift(norm, len(dict(runs)[path])))
        self._taps, width = self._choose_taps(taps, runs)
        floats = {path: value for path, value in tensors_of(self._module).items() if value.is_floating_point()}
        self.frozen = {f"encoder.{path}": value.detach().clone() for path, value in floats.items()}
        self.tap_dim = min(width, TAP_LIMIT)
        if width > TAP_LIMIT:
            generator = torch.Generator().manual_seed(0)
            self.frozen["taps.projection"] = torch.linalg.qr(torch.randn(width, TAP_LIMIT, generator=generator))[0]
        self.dim = int(self.encode({"x": example_input(spec, 2)}, self.frozen)["z"].shape[1])
        early = self.tap_dim if width > TAP_LIMIT else self._early_width
        self.signature = (0, early if width else min(self.dim, SIGNATURE_LIMIT))

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
            if is_map(len(shape), self.input):
                maps[path] = shape
        if wanted is not None:
            missing = [path for path in wanted if path not in maps]
            if missing:
                raise InputError(f"no module {missing[0]!r} gives a feature map; there are {', '.join(list(maps)[:12])}")
            chosen = tuple(wanted)
        else:
            last_at: dict[tuple[int, ...], str] = {}
            convolved = {shape[1] for path, shape in maps.items() if isinstance(self._module.get_submodule(path), nn.Conv1d)}
            for path, shape in maps.items():
                if is_signal(self.input) and shape[1] not in convolved:
                    continue  # (B, T, D) of a transformer or a recurrent layer: time comes first
                if min(shape[2:]) > 1 and not isinstance(self._module.get_submodule(path), _PADDING):
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
            taken.maps[path] = pooled(out)  # at once: the next layer may write in place

        return hook

    def keep_feature(_module: nn.Module, _inputs: Any, out: Any) -> None:
        taken.feature = pooled(out) if isinstance(out, Tensor) and is_map(out.dim(), spec) else out

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
    z = taken.feature
    if z is None:
        z = pooled(out) if isinstance(out, Tensor) and is_map(out.dim(), spec) else out
    if not isinstance(z, Tensor):
        raise InputError(f"the encoder returns {type(z).__name__}; name the module whose output is the feature: feature='path'")
    z = pooled(z) if z.dim() == 4 else z.flatten(1)
    columns = torch.cat([taken.maps[path] for path in taps], dim=1) if taps else z[:, :0]
    if taps and "taps.projection" in t:
        columns = columns @ t["taps.projection"]
    return {"z": z, "taps": columns}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, leaf, module)
