"""A linear probe: the features in front of a classifier, and a logistic regression on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgeadapt.errors import InputError
from edgeadapt.host.encoders.feature_place import feature_place

_BATCH = 256
_PENALTIES = (
    1e-3,
    1e-2,
    0.1,
    1.0,
    3.0,
    10.0,
    30.0,
    100.0,
    300.0,
)  # of features of unit variance, per row
_FOLDS = 4
_STEPS = 60


@dataclass(frozen=True)
class Probe:
    """``logits = z weight^T + bias``: weight (K, D), bias (K,)."""

    weight: Tensor
    bias: Tensor

    def accuracy(self, z: Tensor, y: Tensor) -> float:
        """The share of rows (N, D) whose largest logit is that of their class."""
        return float(((z @ self.weight.T + self.bias).argmax(1) == y).float().mean())


def classifier_of(network: nn.Module, x: Tensor) -> str:
    """Path of the linear layer that classifies.

    Args:
        network: in evaluation mode.
        x: at least two different inputs.

    Raises:
        InputError: the network has none.
    """
    place = feature_place(network, x[:1], x[1:2])
    if not place.is_input:
        raise InputError(
            f"{type(network).__name__} has no linear layer that classifies, so there is nothing to"
            " train it by; give it a classifier for the classes of the data"
        )
    return place.path


@torch.no_grad()
def features(network: nn.Module, classifier: str, x: Tensor) -> Tensor:
    """What goes into the classifier (N, D), for inputs as a network takes them; images may be
    uint8.
    """
    taken: list[Tensor] = []
    layer = network.get_submodule(classifier)
    handle = layer.register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    try:
        for part in x.split(_BATCH):
            network(part.float())
    finally:
        handle.remove()
    return torch.cat(taken)


def fit_probe(z: Tensor, y: Tensor, classes: int, *, seed: int = 0) -> Probe:
    """Multinomial logistic regression, its penalty chosen by the log loss of four folds, so that
    what is trained from it starts calibrated; on one thread, so that the same rows give the same
    bits, and because its matrices are small.

    Args:
        z: (N, D) features; each is brought to mean 0 and variance 1, and back in the weights.
        y: (N,) 0..K-1.
        classes: K.
        seed: of the folds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _chosen(z, y, classes, seed)
    finally:
        torch.set_num_threads(threads)


def _chosen(z: Tensor, y: Tensor, classes: int, seed: int) -> Probe:
    mean, std = z.mean(0), z.std(0, correction=0)
    std = torch.where(std > 1e-6 * (mean.abs() + 1e-6), std, torch.ones(()))
    rows = (z - mean) / std
    fold = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)) % _FOLDS
    lost = {
        penalty: sum(
            float(cross_entropy(_logits(w, rows[fold == k]), y[fold == k], reduction="sum"))
            for k in range(_FOLDS)
            for w in [_fitted(rows[fold != k], y[fold != k], classes, penalty)]
        )
        for penalty in _PENALTIES
    }
    solved = _fitted(rows, y, classes, min(lost, key=lost.__getitem__))
    weight = solved[:, :-1] / std
    return Probe(weight.contiguous(), solved[:, -1] - weight @ mean)


def _logits(w: Tensor, rows: Tensor) -> Tensor:
    return rows @ w[:, :-1].T + w[:, -1]


def _fitted(rows: Tensor, y: Tensor, classes: int, penalty: float) -> Tensor:
    """(K, D + 1), the bias last and without a penalty."""
    w = torch.zeros(classes, rows.shape[1] + 1, requires_grad=True)
    solver = torch.optim.LBFGS(
        [w],
        max_iter=_STEPS,
        tolerance_grad=1e-4,
        tolerance_change=1e-6,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = cross_entropy(_logits(w, rows), y)
        value = value + 0.5 * penalty * w[:, :-1].square().sum() / rows.shape[1]
        value.backward()
        return value

    solver.step(loss)  # type: ignore[arg-type]
    return w.detach()


__all__ = ["Probe", "classifier_of", "features", "fit_probe"]
