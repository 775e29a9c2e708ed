"""Smartwatch windows, no encoder: a new wearer, and an exercise nobody did at the factory. ``pip install seglearn`` adds real data (BSD)."""

import importlib.util
from pathlib import Path

import numpy as np

import edgeadapt
from edgeadapt import host

rng = np.random.default_rng(0)
if seglearn := importlib.util.find_spec("seglearn"):  # its data file is read; the package is not imported
    data = np.load(Path(seglearn.submodule_search_locations[0], "data/watch_dataset.npy"), allow_pickle=True).item()
    names, series, exercise, wearer = data["y_labels"], data["X"], data["y"], data["subject"]
else:
    print("seglearn is not installed: these recordings are simulated")
    names, exercise, wearer = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"], np.tile(np.arange(7), 20), np.repeat(np.arange(1, 11), 14)
    pose, pace, habit = rng.normal(0, 1, (7, 6)), rng.uniform(0.05, 0.3, (7, 6)), rng.normal(0, 0.7, (11, 6))
    series = [pose[k] + habit[who] + np.sin(np.arange(900)[:, None] * pace[k]) for k, who in zip(exercise, wearer, strict=True)]
cut = [(s[i : i + 100], k, who) for s, k, who in zip(series, exercise, wearer, strict=True) for i in range(0, len(s) - 99, 100)]  # 2 s at 50 Hz
x = np.array([np.concatenate([w.mean(0), w.std(0), *np.quantile(w, [0.1, 0.9], 0), abs(np.diff(w, axis=0)).mean(0)]) for w, _, _ in cut], np.float32)
y, wearer = np.array([k for _, k, _ in cut]), np.array([who for _, _, who in cut])
factory, mine = (wearer < 10) & (y < 6), rng.permutation(np.flatnonzero(wearer == 10))
host.export("sensor.edge", host.Identity(x.shape[1]), (x[factory], y[factory]), names[:6])
with edgeadapt.open("sensor.edge", state="sensor-state", policy=edgeadapt.Policy(new_classes="add")) as watch:
    lessons = np.concatenate([mine[y[mine] == k][:8] for k in range(7)])  # eight windows each, 16 seconds
    for day, rows in (("before", lessons[:0]), ("after six known exercises", lessons[y[lessons] < 6]), ("after the seventh", lessons[y[lessons] == 6])):
        _ = len(rows) and watch.learn(x[rows], [names[k] for k in y[rows]]) and watch.settle()
        right = np.array(watch.predict(x[np.setdiff1d(mine, lessons)]).labels) == np.array(names)[y[np.setdiff1d(mine, lessons)]]
        print(f"{day}: {right.mean():.0%} right on the new wearer, {right[y[np.setdiff1d(mine, lessons)] == 6].mean():.0%} on {names[6]}")
