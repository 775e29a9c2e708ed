"""What a tuned encoder lost: a linear probe on a data set that it was not tuned for."""

from __future__ import annotations

import torch
from torch import nn

from edgeadapt.errors import InputError
from edgeadapt.host.data.labelled import Labelled
from edgeadapt.host.encoders.networks import to_nchw
from edgeadapt.host.tuning.probe import features, fit_probe

_MOST = 2000  # rows


class Control:
    """Labelled samples of another task, or of the same in another form.

    Half of them fit a logistic regression on the features, the other half judges it; so the classes
    may be any, and what is measured is the encoder, not its classifier.

    Args:
        data: at least two classes with two samples each; of more than 2,000 rows a fixed draw.
        classifier: path in ``network.network`` of the layer that classifies.
    """

    def __init__(self, data: Labelled, classifier: str) -> None:
        data.require_every_class()
        if min(data.counts) < 2:
            raise InputError("every class of a control needs two samples: one judges")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        rows = order[:_MOST].sort().values.numpy()
        self._x, self._y = to_nchw(data.x[rows]), torch.from_numpy(data.y[rows])
        self._classes, self._classifier = len(data.classes), f"network.{classifier}"
        self._fits = torch.zeros(len(rows), dtype=torch.bool)
        for k in range(self._classes):  # every second of a class
            self._fits[(self._y == k).nonzero().flatten()[::2]] = True

    def accuracy(self, network: nn.Module) -> float:
        """Of the probe, on the half that it was not fitted to."""
        z, fits = features(network, self._classifier, self._x), self._fits
        probe = fit_probe(z[fits], self._y[fits], self._classes)
        return probe.accuracy(z[~fits], self._y[~fits])


__all__ = ["Control"]
