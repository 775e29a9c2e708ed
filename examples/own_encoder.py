"""A network of your own: trained, exported, put under stress, and then under a lamp that is too
bright. No label after the factory.
"""

import numpy as np
import torch
from torch import nn

import edgeadapt
from edgeadapt import host
from edgeadapt.bundle import stress_table
from edgeadapt.demo.sample import KNOWN, load_sample
from edgeadapt.host.datasets import ImageData
from edgeadapt.host.train import train
from edgeadapt.scenarios.corruptions import corrupt


def block(inputs, outputs, stride):
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


torch.manual_seed(0)
network = nn.Sequential(
    *block(1, 24, 2),
    *block(24, 48, 2),
    *block(48, 96, 1),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(96, len(KNOWN)),
)

sample = load_sample()
# 500 are left for the device
lessons, calibration, field = np.split(sample.rows(KNOWN, np.random.default_rng(0)), [1300, 1900])
trained = train(
    network,
    ImageData(sample.x[lessons], sample.y[lessons], KNOWN),
    0.1,
    epochs=20,
    batch=32,
    progress=None,
)
print(f"trained: {trained.accuracy:.0%} right on held-out images")

bundle = host.export(
    "own.edge",
    trained.network,
    (sample.x[calibration], sample.y[calibration]),
    KNOWN,
    name="own",
    novelty="cosine",
    # the default head gains more under blur and loses 9 of 480 on one sorted stream: its card only
    # advises
    head="ridge",
    stress="short",  # the default; "long" runs the full card, which takes minutes
)
print(*stress_table(bundle.card), sep="\n")

frames, truth = corrupt(sample.x[field], "brightness", severity=3), np.array(KNOWN)[sample.y[field]]
frozen = edgeadapt.open(bundle, policy=edgeadapt.Policy(adapt="off"))
right = {"adapting": [], "frozen": []}
with edgeadapt.open(bundle, budget=edgeadapt.Budget(busy_fraction=1.0)) as learner:
    for rows in np.array_split(np.arange(len(frames)), 25):
        right["adapting"] += list(
            np.array(learner.observe(frames[rows]).prediction.labels) == truth[rows]
        )
        right["frozen"] += list(np.array(frozen.predict(frames[rows]).labels) == truth[rows])
        # a camera would not wait; the example does, so that it prints the same everywhere
        learner.settle()
marks = {who: (np.mean(them), np.mean(them[len(them) // 2 :])) for who, them in right.items()}
print(
    "too bright: "
    + ", ".join(f"{who} {mean:.1%} (last half {late:.1%})" for who, (mean, late) in marks.items())
)
