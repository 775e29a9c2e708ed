"""What one pass over calibration data says about every site."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.sites import Site, hooked

Wanted = Literal["second_moment", "squared_gradient"]
Loss = Callable[[Tensor, Tensor], Tensor]


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
        moments = _SecondMoments(module, sites if "second_moment" in wants else ())
        squares: dict[str, Tensor] = {}
        names = [site.weight for site in sites] if "squared_gradient" in wants else []
        of = dict(module.named_parameters())
        with hooked(module, moments.hooks):
            for x, y in batches:
                if not names:
                    with torch.no_grad():
                        module(x)
                    continue
                weights = {name: of[name].detach().requires_grad_() for name in names}
                out = torch.func.functional_call(module, weights, (x,))
                gradients = torch.autograd.grad(
                    loss(out, y), list(weights.values()), allow_unused=True
                )
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


class _SecondMoments:
    """Sums of x x^T, float64, as the network runs."""

    def __init__(self, module: nn.Module, sites: Sequence[Site]) -> None:
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}
        self.hooks = {
            site.path: self._hook(site) for site in sites if site.kind in ("linear", "conv")
        }

    def _hook(self, site: Site) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor, ...], _out: Tensor) -> None:
            rows = _rows(site, layer, inputs[0].detach()).double()
            value = rows.transpose(1, 2) @ rows
            if site.path in self._sums:
                value += self._sums[site.path]
            self._sums[site.path] = value
            self._rows[site.path] = self._rows.get(site.path, 0) + rows.shape[1]

        return hook

    def means(self) -> dict[str, Tensor]:
        return {path: (total / self._rows[path]).float() for path, total in self._sums.items()}


def _rows(site: Site, layer: Any, x: Tensor) -> Tensor:
    """(groups, rows, n): what each row of the site's matrix is multiplied with."""
    if site.kind == "linear":
        return x.reshape(1, -1, x.shape[-1])
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        raise InputError(f"{site.path}: no patches of a {type(layer).__name__}")
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if x.dim() == 3:
        x, kernel, stride, dilation = x[:, :, None], (1, *kernel), (1, *stride), (1, *dilation)
    patches = functional.unfold(x, kernel, dilation, stride=stride)  # (B, C x kernel, places)
    groups, _, n = site.matrix_shape
    return patches.unflatten(1, (groups, n)).permute(1, 0, 3, 2).flatten(1, 2)


__all__ = ["Statistics"]
