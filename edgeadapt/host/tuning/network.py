"""A network whose weights are the base's, changed by a plan's numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.plan import Plan, key_of

Values = Mapping[str, Tensor]


class TunedNetwork(nn.Module):
    """The base with a delta: its parameters are the numbers alone.

    It computes what the merged network computes, bit for bit, since both use the same tensors.
    The base stays in evaluation mode while training too.

    Args:
        base: any network; it is not changed, and its parameters get no gradients.
        plan: what is tuned.
        values: first values, as :func:`edgeadapt.host.tuning.start.start_values` gives them. Those
            that the plan does not train are constants.
    """

    def __init__(self, base: nn.Module, plan: Plan, values: Values) -> None:
        super().__init__()
        missing = [name for name in plan.shapes if name not in values]
        if missing:
            raise InputError(f"the plan trains {missing[0]}, which has no first value")
        self.base = base.requires_grad_(False)
        self.plan = plan
        self._trained, self._constants = nn.ParameterDict(), nn.Module()
        for name, value in values.items():
            if name in plan.shapes:
                self._trained[_escaped(name)] = nn.Parameter(value.detach().clone())
            else:
                self._constants.register_buffer(_escaped(name), value.detach().clone())

    @property
    def values(self) -> dict[str, Tensor]:
        """The trained numbers and the constants, by their names in the plan."""
        return {
            _name(key): value.detach()
            for key, value in (*self._trained.items(), *self._constants.named_buffers())
        }

    def merged(self) -> dict[str, Tensor]:
        """New parameters of the base, by name: those that the plan changes."""
        given = {
            _name(key): value
            for key, value in (*self._trained.items(), *self._constants.named_buffers())
        }
        weights = dict(self.base.named_parameters())
        found = {name: given[name] for name in self.plan.whole}
        for site in self.plan.sites:
            first = key_of(site, "")
            p = {key[len(first) :]: v for key, v in given.items() if key.startswith(first)}
            found |= self.plan.delta.merged(site, weights, p)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """What the base returns, with the changed parameters."""
        out: Tensor = torch.func.functional_call(self.base, self.merged(), (x,))
        return out

    def train(self, mode: bool = True) -> TunedNetwork:
        """The base stays in evaluation mode: norms on its statistics, and nothing dropped, since
        few samples pay for noise that was chosen for many.
        """
        super().train(mode)
        self.base.eval()
        return self

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """A copy of the base that has the changed parameters as its own."""
        network = copy.deepcopy(self.base)
        parameters = dict(network.named_parameters())
        for name, value in self.merged().items():
            parameters[name].copy_(value)
        return network.eval()


def _escaped(name: str) -> str:
    return name.replace(".", "|")  # a module's names have no dots


def _name(key: str) -> str:
    return key.replace("|", ".")


__all__ = ["TunedNetwork", "Values"]
