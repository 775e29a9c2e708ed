"""What one pass over calibration data says about every site."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.sites import Site

Wanted = Literal["second_moment", "squared_gradient"]
Loss = Callable[[Tensor, Tensor], Tensor]
_PRODUCTS = {functional.linear, torch.conv1d, torch.conv2d, torch.conv3d}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Statistics:
    """Collected once, and read by starts and scores.

    second_moment (groups, n, n)   mean of x x^T over what the site's matrix is multiplied with, as
                                   patches for a convolution; not of norms and embeddings
    squared_gradient, like the weight   sum over the batches of the squared gradient of the loss
    """

    def __init__(self, found: dict[tuple[str, str], Tensor]) -> None:
        self._found = found

    @classmethod
    def collect(
        cls,
        module: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        sites: Sequence[Site],
        wants: Collection[str],
        *,
        loss: Loss = functional.cross_entropy,
    ) -> Statistics:
        """Run the batches through the network once.

        Args:
            module: in evaluation mode; it is not changed.
            batches: inputs and labels.
            sites: of this network.
            wants: names of statistics.
            loss: of outputs and labels, () float.

        Raises:
            InputError: a statistic that there is not.
        """
        unknown = set(wants) - {"second_moment", "squared_gradient"}
        if unknown:
            raise InputError(
                f"no statistic {min(unknown)!r}; there are second_moment, squared_gradient"
            )
        moments = _SecondMoments(sites if "second_moment" in wants else ())
        squares: dict[str, Tensor] = {}
        names = [site.weight for site in sites] if "squared_gradient" in wants else []
        of = dict(module.named_parameters())
        for x, y in batches:
            moments.weights = of
            if not names:
                with moments, torch.no_grad():
                    module(x)
                continue
            weights = {name: of[name].detach().requires_grad_() for name in names}
            moments.weights = {**of, **weights}
            with moments:
                out = torch.func.functional_call(module, weights, (x,))
            gradients = torch.autograd.grad(loss(out, y), list(weights.values()), allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    squares[name] = squares.get(name, torch.zeros(())) + gradient**2
        found = {("second_moment", path): value for path, value in moments.means().items()}
        found |= {
            ("squared_gradient", site.path): squares[site.weight] for site in sites if squares
        }
        return cls(found)

    def of(self, name: str, site: Site) -> Tensor:
        """One statistic of one site.

        Raises:
            InputError: it was not collected, or the site's kind has none.
        """
        value = self._found.get((name, site.path))
        if value is None:
            raise InputError(f"{site.path}: no {name} of a {site.kind} was collected")
        return value


class _SecondMoments(TorchFunctionMode):
    """Sums of x x^T, float64, of whatever is multiplied with the weight of a site.

    The product is watched and not the module, as modules may pad or shape their input first.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self._sites = {site.weight: site for site in sites if site.kind in ("linear", "conv")}
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}
        self.weights: Mapping[str, Tensor] = {}  # of the pass that runs, by name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(zip(_ARGUMENTS, args, strict=False)) | (kwargs or {})
        if func in _PRODUCTS and (site := self._site(given.get("weight"))):
            rows = _patches(site, given) if site.kind == "conv" else given["input"]
            self._add(site, rows.detach().reshape(site.groups, -1, site.matrix_shape[2]).double())
        return func(*args, **(kwargs or {}))

    def _site(self, weight: Any) -> Site | None:
        return next((self._sites[n] for n in self._sites if self.weights.get(n) is weight), None)

    def _add(self, site: Site, rows: Tensor) -> None:
        value = rows.transpose(1, 2) @ rows
        self._sums[site.path] = self._sums.get(site.path, 0.0) + value
        self._rows[site.path] = self._rows.get(site.path, 0) + rows.shape[1]

    def means(self) -> dict[str, Tensor]:
        return {path: (total / self._rows[path]).float() for path, total in self._sums.items()}


def _patches(site: Site, given: Mapping[str, Any]) -> Tensor:
    """(groups, places, n): what each row of a convolution's matrix is multiplied with."""
    x, axes = given["input"], len(site.shape) - 2
    if axes > 2:
        raise InputError(f"{site.path}: no patches of a convolution over {axes} axes")

    def each(name: str, default: int) -> tuple[int, ...]:
        value = given.get(name, default)
        values = (value,) * axes if isinstance(value, int) else tuple(value)
        return (default,) * (2 - axes) + (values * axes if len(values) < axes else values)

    kernel = (1,) * (2 - axes) + site.shape[2:]
    dilation, stride = each("dilation", 1), each("stride", 1)
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)][2 - axes :]
        if padding == "same":
            x = functional.pad(x, [s for n in reversed(whole) for s in (n // 2, n - n // 2)])
        given = {**given, "padding": 0}
    if axes == 1:
        x = x[:, :, None]
    patches = functional.unfold(x, kernel, dilation, each("padding", 0), stride)
    return patches.unflatten(1, (site.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


__all__ = ["Statistics"]
