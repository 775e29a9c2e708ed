"""Smartwatch windows, no encoder: a new wearer, and an exercise nobody did at the factory. ``pip
install seglearn`` adds real data (BSD).
"""

import importlib.util

import numpy as np

import edgeadapt
from edgeadapt import host

rng = np.random.default_rng(0)
# its data file is read (a pickle: trust it or leave it); the package is not imported
if seglearn := importlib.util.find_spec("seglearn"):
    data = np.load(
        f"{seglearn.submodule_search_locations[0]}/data/watch_dataset.npy", allow_pickle=True
    ).item()
    names, series, exercise, wearer = data["y_labels"], data["X"], data["y"], data["subject"]
else:
    print("seglearn is not installed: these recordings are simulated")
    names = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
    exercise = np.tile(np.arange(7), 20)
    wearer = np.repeat(np.arange(1, 11), 14)
    pose = rng.normal(0, 1, (7, 6))
    pace = rng.uniform(0.05, 0.3, (7, 6))
    habit = rng.normal(0, 0.7, (11, 6))
    series = [
        pose[k] + habit[who] + np.sin(np.arange(900)[:, None] * pace[k])
        for k, who in zip(exercise, wearer, strict=True)
    ]
cut = [
    (s[i : i + 100], k, who)
    for s, k, who in zip(series, exercise, wearer, strict=True)
    for i in range(0, len(s) - 99, 100)
]
# windows of two seconds at 50 Hz, six axes
w, y, wearer = (np.array(part) for part in zip(*cut, strict=True))
x = np.concatenate(
    [w.mean(1), w.std(1), *np.quantile(w, [0.1, 0.9], 1), abs(np.diff(w, axis=1)).mean(1)], 1
).astype(np.float32)
factory, (lessons, exam) = (
    (wearer < 10) & (y < 6),
    np.split(rng.permutation(np.flatnonzero(wearer == 10)), [70]),
)
host.export(
    "sensor.edge", host.Identity(x.shape[1]), (x[factory], y[factory]), names[:6], stress="short"
)
with edgeadapt.open(
    "sensor.edge", state="sensor-state", policy=edgeadapt.Policy(new_classes="add")
) as watch:
    for rows in (lessons[y[lessons] < 6], lessons[y[lessons] == 6], []):
        right = np.array(watch.predict(x[exam]).labels) == np.array(names)[y[exam]]
        print(f"knows {len(watch.classes)} exercises, {right.mean():.0%} right on the new wearer")
        if len(rows):
            watch.learn(x[rows], [names[k] for k in y[rows]])
            watch.settle()
