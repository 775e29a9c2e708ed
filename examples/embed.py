"""Your encoder's features, our learner: nothing here is an image. Needs the host extra, for the one
export.
"""

import numpy as np

import edgeadapt
from edgeadapt import host

rng = np.random.default_rng(0)
CLASSES = ["ok", "scratch", "stain", "dent"]  # the first three are known when the bundle is made
centres, mixing = rng.normal(0, 0.2, (4, 128)), rng.normal(0, 1 / np.sqrt(128), (128, 128))


def your_encoder(y, drift=0.0):
    """Stands in for your model: (N, 128) float32 features with correlated noise, moved a little
    where conditions drift.
    """
    return (centres[y] + rng.normal(0, 1, (len(y), 128)) @ mixing + drift).astype(np.float32)


y = rng.integers(0, 3, 600)
host.export(
    "embed.edge",
    host.Identity(128),
    calibration=(your_encoder(y), y),
    classes=CLASSES[:3],
    stress="short",
)

with edgeadapt.open(
    "embed.edge", state="embed-state", policy=edgeadapt.Policy(new_classes="add")
) as learner:
    # dents appear; the operator names the ten that look strangest in every batch
    for step in range(6):
        y = rng.integers(0, 4, 64)
        seen = learner.observe(features={"z": your_encoder(y)}, stream="line-1")
        right = np.mean(
            [label == CLASSES[k] for label, k in zip(seen.prediction.labels, y, strict=True)]
        )
        print(f"batch {step}: {right:.0%} right, knows {', '.join(learner.classes)}")
        strangest = np.argsort(seen.prediction.novelty)[-10:]
        learner.label([seen.ids[i] for i in strangest], [CLASSES[y[i]] for i in strangest])
        learner.settle()  # only so that the next line of the example shows the effect
