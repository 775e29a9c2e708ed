"""Each core method, switched on by its one key. Needs the host extra."""

import numpy as np
from torch import nn

import edgeadapt
from edgeadapt import host

rng, CLASSES = np.random.default_rng(0), ["rows", "columns", "plain"]


def images(count):
    """Stripes across, stripes down, none: (N, 16, 16) uint8, and classes (N,)."""
    y, x = np.arange(count) % 3, rng.integers(0, 60, (count, 16, 16))
    x[y == 0, ::4] += 70
    x[y == 1, :, ::4] += 70
    return x.astype(np.uint8), y


net = nn.Sequential(
    nn.Conv2d(1, 16, 3, 2),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, 2),
    nn.ReLU(),
    nn.AvgPool2d(3),
    nn.Flatten(),
).eval()
policy = edgeadapt.Policy(routing="hypervector")
keep = edgeadapt.Keep(rows=200, selection="adaptive")
for keys in ({"head": "key_value"}, {"novelty": "hypervector", "adapt": "neuro_hebbian"}):
    host.export("core.edge", net, images(360), CLASSES, stress="short", **keys)
    with edgeadapt.open("core.edge", policy=policy, keep=keep) as learner:
        x, y = images(300)
        learner.learn(x, [CLASSES[k] for k in y])
        learner.checkpoint()
        right = np.mean(np.array(learner.predict(x).labels) == np.array(CLASSES)[y])
        kept = sum(learner.counters()["evidence"].values())
        print(f"{keys}: {right:.0%} right, {kept} of 300 samples are kept")
