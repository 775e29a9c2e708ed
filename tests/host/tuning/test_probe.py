"""A linear probe is a regression that is not sure of what it has not seen."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from edgeadapt.host.tuning.probe import fit_probe


def test_few_rows_of_many_features_give_a_calibrated_probe() -> None:
    """Its log loss elsewhere is below that of scikit-learn's defaults, at no less accuracy."""
    rng = np.random.default_rng(0)
    means = 0.25 * rng.standard_normal((4, 300))
    y = rng.integers(4, size=1100)
    z = (means[y] + rng.standard_normal((1100, 300))).astype(np.float32)
    peer = LogisticRegression(max_iter=1000).fit(z[:100], y[:100])
    peer_loss = -float(np.log(peer.predict_proba(z[100:])[np.arange(1000), y[100:]]).mean())
    rows, labels = torch.from_numpy(z), torch.from_numpy(y)
    probe = fit_probe(rows[:100], labels[:100], 4)
    loss = float(cross_entropy(rows[100:] @ probe.weight.T + probe.bias, labels[100:]))
    assert loss < 0.9 * peer_loss
    assert probe.accuracy(rows[100:], labels[100:]) >= peer.score(z[100:], y[100:]) - 0.01
