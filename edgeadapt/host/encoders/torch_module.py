"""A torch module becomes one pure function: pixels in, a feature and pooled taps out.

Batch-normalisation is replaced by one scale and one shift per channel, kept as frozen constants of
their own. ONNX Runtime folds them into the convolutions when it loads the graph, and a re-folded
encoder is the same graph with other constants. The prepared module is compared with the untouched
one on calibration inputs, before anything is compiled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Values
from edgeadapt.host.encoders.base import (
    SIGNATURE_LIMIT,
    TAP_LIMIT,
    example_input,
    is_map,
    is_signal,
    pooled,
    to_images,
)
from edgeadapt.host.encoders.batch_norm import Runs, norms_left, replace_module, replace_norms
from edgeadapt.host.encoders.feature_place import FeaturePlace, feature_place

_PADDING = (
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
)
"""Never tapped: a tap behind a padding layer keeps the runtime from fusing it into its convolution,
at twice the time.
"""

_PROBED = 2  # inputs that show what runs, and in which shapes
_COMPARED = 8  # inputs on which the prepared module is compared with the untouched one
_TOLERANCE = 1e-3  # of the largest value: folding rounds, and deep networks amplify


@dataclass
class _Taken:
    """What one forward pass leaves behind: pooled maps of the tap modules and the input of the
    classifier.
    """

    maps: dict[str, Tensor] = field(default_factory=dict)  # averaged over space or time
    feature: Tensor | None = None


class ModuleEncoder:
    """An ``nn.Module`` with its taps.

    Args:
        module: takes float images (B, C, H, W), signals (B, C, L) or vectors (B, F), in the units
            of ``spec`` (0..255 for uint8 input).
        spec: the input contract.
        feature: path of the module whose output is the feature; by default the input of the linear
            layer that classifies, or the output if there is none (``feature_place``). Feature maps
            are averaged over space, those of signals over time.
        taps: paths of modules to tap; by default the last feature map at each resolution but the
            final one, which of a transformer is its tokens. Vectors have none.
        inputs: (N, ...) of the contract, on which the prepared module is compared with the
            untouched one; by default random.

    Attributes:
        feature_from: where the feature is, in words. norms: the batch-norms that can adapt.
            left_frozen: ``path (Type)`` of those that cannot: subclasses that do more than their
            norm and the modules behind it, and what runs twice or not as a module.

    Raises:
        InputError: the module does not take the inputs, a path names nothing, or preparing would
            change what it computes.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: InputSpec,
        *,
        name: str = "",
        feature: str | None = None,
        taps: Sequence[str] | None = None,
        inputs: NDArray[Any] | None = None,
    ) -> None:
        self.name = name or type(module).__name__
        self.input = spec
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        modules = list(dict(self._module.named_modules()))
        if feature is not None and feature not in modules:
            known = ", ".join(modules[1:25])
            raise InputError(f"no module {feature!r} to take the feature from; there are {known}")
        examples = [
            example_input(spec, _PROBED),
            example_input(spec, _PROBED, torch.Generator().manual_seed(0)),
        ]
        runs = self._probe(to_images(examples[0], spec))
        self._feature = (
            FeaturePlace(feature)
            if feature
            else feature_place(self._module, *(to_images(x, spec) for x in examples))
        )
        self.feature_from = str(self._feature).replace("the network", self.name)
        self._taps, width = self._choose_taps(taps, runs)
        x = (
            examples[0]
            if inputs is None
            else torch.from_numpy(np.ascontiguousarray(inputs[:_COMPARED]))
        )
        untouched = self.encode({"x": x}, {})
        replaced, self.norms = replace_norms(self._module, runs)
        self.left_frozen = norms_left(self._module)
        self._require_the_same(x, untouched, replaced)
        floats = {
            path: value
            for path, value in tensors_of(self._module).items()
            if value.is_floating_point()
        }
        self.frozen = {f"encoder.{path}": value.detach().clone() for path, value in floats.items()}
        self.tap_dim = min(width, TAP_LIMIT)
        if width > TAP_LIMIT:
            generator = torch.Generator().manual_seed(0)
            self.frozen["taps.projection"] = torch.linalg.qr(
                torch.randn(width, TAP_LIMIT, generator=generator)
            )[0]
        self.dim = int(untouched["z"].shape[1])
        early = self.tap_dim if width > TAP_LIMIT else self._early_width
        self.signature = (0, early if width else min(self.dim, SIGNATURE_LIMIT))

    def _require_the_same(
        self, x: Tensor, untouched: dict[str, Tensor], replaced: dict[str, nn.Module]
    ) -> None:
        """The module whose norms were replaced must compute what it did before.

        Raises:
            InputError: it does not; the message names the norm where that begins.
        """
        way = "call it once and read nothing of it, or take it out of the module"
        try:
            prepared = self.encode({"x": x}, {})
        except AttributeError as error:
            raise InputError(
                f"{self.name} reads from a batch-norm what its scale and shift do not have "
                f"({', '.join(replaced)}: {error}); {way}"
            ) from error
        for port, want in untouched.items():
            got, size = prepared[port], float(want.abs().max()) if want.numel() else 0.0
            if torch.allclose(got, want, rtol=0.0, atol=_TOLERANCE * size, equal_nan=True):
                continue
            where = self._first_difference(x, replaced)
            raise InputError(
                f"{self.name} is another network without its batch-norms as they were: on your"
                f" inputs {port} is off by {float((got - want).abs().max()):.1e} of {size:.1e},"
                f" from {where or 'none of its norms'} on; {way}"
            )

    def _first_difference(self, x: Tensor, replaced: dict[str, nn.Module]) -> str:
        """The first norm, as they run, behind which the two networks differ; empty if none."""

        def outputs(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}
            for path, module in modules.items():
                replace_module(self._module, path, module)
            hooks = [
                self._module.get_submodule(path).register_forward_hook(
                    lambda _m, _i, out, path=path: found.__setitem__(path, out.clone())
                )
                for path in replaced
            ]
            self.encode({"x": x}, {})
            for hook in hooks:
                hook.remove()
            return found

        prepared = outputs({})
        for path, want in outputs(replaced).items():
            if not torch.allclose(
                prepared[path],
                want,
                rtol=0.0,
                atol=_TOLERANCE * float(want.abs().max()),
                equal_nan=True,
            ):
                return path
        return ""

    def _probe(self, example: Tensor) -> Runs:
        runs: list[tuple[str, tuple[int, ...]]] = []

        def record(path: str) -> Callable[..., None]:
            return lambda _module, _inputs, out: runs.append(
                (path, tuple(out.shape) if isinstance(out, Tensor) else ())
            )

        hooks = [
            m.register_forward_hook(record(path))
            for path, m in self._module.named_modules()
            if path
        ]
        try:
            with torch.no_grad():
                self._module(example)
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the encoder does not take float32 inputs of shape {tuple(example.shape)}:"
                f" {reason}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        return runs

    def _choose_taps(self, wanted: Sequence[str] | None, runs: Runs) -> tuple[tuple[str, ...], int]:
        maps: dict[str, tuple[int, ...]] = {}
        for path, shape in runs:
            maps.pop(path, None)  # the order is that of the last runs
            # windows of attention are more
            if is_map(len(shape), self.input) and shape[0] == _PROBED:
                maps[path] = shape
        if wanted is not None:
            missing = [path for path in wanted if path not in maps]
            if missing:
                raise InputError(
                    f"no module {missing[0]!r} gives a feature map; there are"
                    f" {', '.join(list(maps)[:12])}"
                )
            chosen = tuple(wanted)
        else:
            last_at: dict[tuple[int, ...], str] = {}
            size = to_images(example_input(self.input, 1), self.input).shape[2:]
            square = len(size) == 2 and size[0] == size[1]
            convolved = {
                shape[1]
                for path, shape in maps.items()
                if isinstance(self._module.get_submodule(path), nn.Conv1d)
            }
            for path, shape in maps.items():
                if is_signal(self.input) and shape[1] not in convolved:
                    continue  # (B, T, D) of a transformer or a recurrent layer: time comes first
                if square and abs(shape[2] - shape[3]) > 1:
                    continue  # channels last, or the tokens of attention heads
                if min(shape[2:]) > 1 and not isinstance(
                    self._module.get_submodule(path), _PADDING
                ):
                    last_at.pop(shape[2:], None)
                    last_at[shape[2:]] = path
            everywhere = tuple(last_at.values())
            chosen = (
                everywhere
                if self._goes_on_as_tokens(everywhere, runs)
                else everywhere[:-1] or everywhere
            )
        widths = [maps[path][1] for path in chosen]
        self._early_width = sum(widths[: max(1, len(widths) - 1)])
        return chosen, sum(widths)

    def _goes_on_as_tokens(self, maps: tuple[str, ...], runs: Runs) -> bool:
        """Of an image: whether the last map becomes tokens, so that it is an early one too."""
        if is_signal(self.input) or not maps:
            return False
        paths = [path for path, _ in runs]
        after = runs[len(paths) - paths[::-1].index(maps[-1]) :]
        of_tokens = (nn.Linear, nn.LayerNorm)
        return any(
            len(shape) == 3 and isinstance(self._module.get_submodule(path), of_tokens)
            for path, shape in after
        )

    def encode(self, ports: Values, t: Values) -> dict[str, Tensor]:
        return run_module(self._module, ports["x"], t, self.input, self._taps, self._feature)


def run_module(
    module: nn.Module,
    x: Tensor,
    t: Values,
    spec: InputSpec,
    taps: Sequence[str],
    feature: FeaturePlace,
    extra: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
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
    if feature.is_input:
        hooks.append(module.get_submodule(feature.path).register_forward_pre_hook(keep_input))
    elif feature.path:
        hooks.append(module.get_submodule(feature.path).register_forward_hook(keep_feature))
    try:
        names = {
            path: t[f"encoder.{path}"] for path in tensors_of(module) if f"encoder.{path}" in t
        }
        out = torch.func.functional_call(module, {**names, **(extra or {})}, (to_images(x, spec),))
    finally:
        for hook in hooks:
            hook.remove()
    if feature.path and taken.feature is None:
        raise InputError(
            f"the module {feature.path!r} does not run when the encoder does, so it gives no"
            " feature"
        )
    z = taken.feature
    if z is None:
        z = pooled(out) if isinstance(out, Tensor) and is_map(out.dim(), spec) else out
    if not isinstance(z, Tensor):
        raise InputError(
            f"the encoder returns {type(z).__name__}; name the module whose output is the feature:"
            " feature='path'"
        )
    z = pooled(z) if z.dim() == 4 else z.flatten(1)
    columns = torch.cat([taken.maps[path] for path in taps], dim=1) if taps else z[:, :0]
    if taps and "taps.projection" in t:
        columns = columns @ t["taps.projection"]
    return {"z": z, "taps": columns}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
