"""The bundle that ships with the demo meets fog: it notices, corrects itself, asks, and learns from
the answers. No torch.
"""

import numpy as np

import edgeadapt
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.scenarios.corruptions import corrupt

sample = load_sample()
rows = sample.rows(KNOWN, np.random.default_rng(0))[:960]
frames = corrupt(sample.x[rows], "fog", severity=3, seed=0)
truth = [CLASSES[k] for k in sample.y[rows]]

frozen = edgeadapt.open(bundle_path(), policy=edgeadapt.Policy(adapt="off"))
with edgeadapt.open(bundle_path(), state="images-state") as learner:
    names, right = {}, {"learner": [], "frozen": []}
    for start in range(0, len(frames), 32):
        batch, answers = frames[start : start + 32], truth[start : start + 32]
        seen = learner.observe(batch, stream="cam-1")
        names.update(zip(seen.ids, answers, strict=True))
        right["learner"] += [a == b for a, b in zip(seen.prediction.labels, answers, strict=True)]
        right["frozen"] += [
            a == b for a, b in zip(frozen.predict(batch).labels, answers, strict=True)
        ]
        # a camera would not wait; the example does, so that it prints the same everywhere
        learner.settle()
        for question in learner.questions():
            print(
                f"{question.why}: is this {question.predicted}? ({question.confidence:.0%}) ->"
                f" {names[question.id]}"
            )
            learner.label(question.id, names[question.id], source="operator")
    print(
        f"in {learner.domain('cam-1')}: {np.mean(right['learner'][320:]):.1%} right, the frozen"
        f" model {np.mean(right['frozen'][320:]):.1%}"
    )
