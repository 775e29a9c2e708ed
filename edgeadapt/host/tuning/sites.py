"""The places in a network whose weights may be tuned, in the order in which they run.

A convolution's weight is seen as one matrix per group, ``(groups, out / groups, in / groups x
kernel)``, and nothing behind this module knows that it is a convolution.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from edgeadapt.errors import InputError

Kind = Literal["linear", "conv", "norm", "embedding"]
_ADDS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Site:
    """One module with a weight.

    Attributes:
        path: of the module, such as ``"network.block2.conv1"``.
        kind: of the module.
        weight, bias: names of its parameters; ``bias`` is empty without one.
        shape: of the weight as it is stored.
        groups: of a convolution, else 1.
        depth: 0 for the first to run, 1 for the last.
        block: path of the coarse unit it lies in: what a policy over layers chooses among.
        macs: multiply-accumulates a sample, at the example's size; of a norm, its products.
        ends_branch: its output is one side of a sum of two tensors of one shape: the last layer of
            a residual branch, or the projection beside it.
    """

    path: str
    kind: Kind
    weight: str
    bias: str
    shape: tuple[int, ...]
    groups: int
    depth: float
    block: str
    macs: int
    ends_branch: bool = False

    @property
    def channels(self) -> tuple[int, ...]:
        """Shape of one number for every output: of a bias, if there is one."""
        if self.kind == "norm":
            return self.shape
        return (self.shape[-1],) if self.kind == "embedding" else (self.shape[0],)

    def per_channel(self, value: Tensor) -> Tensor:
        """A value of shape :attr:`channels`, so shaped that it multiplies the weight."""
        if self.kind in ("norm", "embedding"):
            return value
        return value.reshape(-1, *[1] * (len(self.shape) - 1))

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(groups, m, n) of :meth:`matrix`."""
        if self.kind == "norm":
            return 1, math.prod(self.shape), 1
        return self.groups, self.shape[0] // self.groups, math.prod(self.shape[1:])

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as matrices (groups, m, n), each from n inputs to m outputs."""
        return weight.reshape(self.matrix_shape)

    def tensor(self, matrix: Tensor) -> Tensor:
        """The way back from :meth:`matrix` to the weight's own shape."""
        return matrix.reshape(self.shape)


def sites_of(
    module: nn.Module, example: Tensor, patterns: Iterable[str] = ("*",)
) -> tuple[Site, ...]:
    """Every module with a weight that runs on the example, in the order of its first run.

    Transposed convolutions are left out: their groups lie along the other axis. So are weights that
    no module of their own holds, such as those inside ``nn.MultiheadAttention``.

    Args:
        module: in evaluation mode.
        example: a batch that it takes, of any size.
        patterns: shell patterns of paths; a site is kept if one of them fits.

    Raises:
        InputError: a pattern that fits no site; the message has some that there are.
    """
    runs = _runs(module, example)
    blocks = _blocks([path for path, *_ in runs])
    last = max(1, len(runs) - 1)
    found = tuple(
        replace(
            site_at(module, path),
            depth=order / last,
            block=block,
            macs=macs,
            ends_branch=ends_branch,
        )
        for order, ((path, macs, ends_branch), block) in enumerate(zip(runs, blocks, strict=True))
    )
    return matching(found, patterns)


def site_at(module: nn.Module, path: str) -> Site:
    """The site at a path, as far as its module shows it.

    Depth, block, multiply-accumulates and ends of branches show when the network runs, and are
    those of no site here; a merge needs none of them.

    Raises:
        InputError: no module is there, or none whose weight may be tuned.
    """
    try:
        layer: Any = module.get_submodule(path)
    except AttributeError:
        raise InputError(f"the network has no module {path!r}") from None
    kind = _kind(layer)
    if kind is None:
        raise InputError(f"{path!r} is {type(layer).__name__}, which has no weight to tune")
    return Site(
        path,
        kind,
        f"{path}.weight".lstrip("."),
        f"{path}.bias".lstrip(".") if getattr(layer, "bias", None) is not None else "",
        tuple(layer.weight.shape),
        int(getattr(layer, "groups", 1)),
        depth=0.0,
        block="",
        macs=0,
    )


def matching(sites: Sequence[Site], patterns: Iterable[str]) -> tuple[Site, ...]:
    """The sites whose path fits one of the patterns, in order.

    Raises:
        InputError: a pattern that fits none.
    """
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(site.path, pattern) for site in sites):
            shown = ", ".join(site.path for site in sites[:8])
            more = f", and {len(sites) - 8} more" if len(sites) > 8 else ""
            raise InputError(f"no site of the network fits {pattern!r}; there are {shown}{more}")
    return tuple(
        site for site in sites if any(fnmatch.fnmatchcase(site.path, one) for one in patterns)
    )


def _runs(module: nn.Module, example: Tensor) -> list[tuple[str, int, bool]]:
    """Path, multiply-accumulates a sample and whether a branch ends there, of every site, as they
    first run.
    """
    macs: dict[str, int] = {}
    sums = _Sums()

    def record(path: str, kind: Kind, layer: Any) -> Any:
        def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
            each = 0 if kind == "embedding" else 1
            if kind in ("linear", "conv"):
                each = layer.weight[0].numel()
            macs[path] = macs.get(path, 0) + out.numel() // len(example) * each
            sums.outputs.append((out, path))

        return hook

    layers: dict[str, tuple[Kind, Any]] = {}
    shared: set[int] = set()
    for path, layer in module.named_modules():
        kind = _kind(layer)
        if kind and id(layer.weight) not in shared:  # tied weights are one site, the first
            shared.add(id(layer.weight))
            layers[path] = kind, layer
    hooks = {path: record(path, *layer) for path, layer in layers.items()}
    with hooked(module, hooks), torch.no_grad(), sums:
        module(example)
    return [(path, count, path in sums.ends) for path, count in macs.items()]


class _Sums(TorchFunctionMode):
    """Watches sums of two tensors of one shape: which outputs of sites are one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[tuple[Tensor, str]] = []  # held, so that no other tensor has their id
        self.ends: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        both = [side for side in args[:2] if isinstance(side, Tensor)] if func in _ADDS else []
        if len(both) == 2 and both[0].shape == both[1].shape:
            of_side = {id(out): path for out, path in self.outputs}
            self.ends |= {of_side[id(side)] for side in both if id(side) in of_side}
        return func(*args, **(kwargs or {}))


def _kind(layer: Any) -> Kind | None:
    if isinstance(layer, nn.Linear):
        return "linear"
    if isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd):
        return "conv"
    if isinstance(layer, nn.Embedding):
        return "embedding"
    return "norm" if isinstance(layer, _NORMS) and layer.weight is not None else None


@contextmanager
def hooked(module: nn.Module, hooks: Mapping[str, Any]) -> Iterator[None]:
    """Forward hooks at these paths, for the length of the block."""
    handles = [
        module.get_submodule(path).register_forward_hook(hook) for path, hook in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blocks(paths: Sequence[str]) -> list[str]:
    """For every path the shortest prefix that parts the network in at least four units, or its
    parent.
    """
    parts = [path.split(".") for path in paths]
    longest = max((len(part) for part in parts), default=1)
    for length in range(1, longest):
        prefixes = [".".join(part[:length]) for part in parts]
        if len(set(prefixes)) >= 4:
            return prefixes
    return [path.rpartition(".")[0] for path in paths]


__all__ = ["Kind", "Site", "hooked", "matching", "site_at", "sites_of"]
