"""What a correction in place costs on one runtime: the same batch through two learners that take
turns, one corrected and one that never adapts.

    python -m edgeadapt_bench.gpu.gpu_correction correction '{"runtime": "tensorrt", "plans":
    "/tmp/plans"}'

Both go through ``predict``: the encoder, folded again for the condition or the factory's, and the
read graph with the condition's tensors or the factory's. No refresh runs meanwhile.
"""

from __future__ import annotations

import numpy as np

from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt_bench.gpu.gpu_check import answer
from edgeadapt_bench.gpu.gpu_result import GpuRow, failed, measured
from edgeadapt_bench.gpu.gpu_runtimes import CPU, opened
from edgeadapt_bench.gpu.gpu_scenario import dark
from edgeadapt_bench.harness.measure import paired

PART = "correction"
TARGET = 1.02


def correction(runtime: str, plans: str, quick: bool = False) -> list[GpuRow]:
    """The ratio of the medians at two batch sizes, its spread over rounds, and both times."""
    held, night, budget = opened(runtime, plans), dark(), Budget(busy_fraction=1.0)
    rounds, block = (3, 4) if quick else (20, 16)
    rows = []
    with (
        open_learner(bundle_path(), runtime=held, budget=budget) as corrected,
        open_learner(
            bundle_path(), runtime=held, budget=budget, policy=Policy(adapt="off")
        ) as plain,
    ):
        for at in range(0, len(night), 32):
            corrected.observe(night[at : at + 32])
            corrected.settle()
        if corrected.domain() == "source" or not corrected.counters()["refreshes"]:
            return [
                failed(
                    PART,
                    f"with a correction in place on {runtime}",
                    "no correction came into use, so its cost cannot be said",
                    f"<= {TARGET:g}",
                )
            ]
        for batch in (32, 1):
            frames = [night[at : at + batch] for at in range(0, 7 * batch, batch)]
            adapted, unadapted = paired(
                lambda i, f=frames: corrected.predict(f[i % len(f)]),
                lambda i, f=frames: plain.predict(f[i % len(f)]),
                rounds,
                block=block,
            )  # type: ignore[misc]
            ratios = np.median(adapted.reshape(rounds, -1), axis=1) / np.median(
                unadapted.reshape(rounds, -1), axis=1
            )
            name = f"batch {batch} on {runtime}"
            spread = float(np.quantile(ratios, 0.1)), float(np.quantile(ratios, 0.9))
            # the CPU is what the others are read beside
            target = TARGET if batch == 32 and runtime != CPU else None
            told = (
                f"{1e6 * float(np.median(adapted)):.0f} us with,"
                f" {1e6 * float(np.median(unadapted)):.0f} us without"
            )
            rows.append(
                measured(
                    PART,
                    f"{name}: with a correction over without",
                    float(np.median(ratios)),
                    "x",
                    spread,
                    at_most=target,
                    found=told,
                )
            )
    return rows


CHECKS = {"correction": correction}

if __name__ == "__main__":
    answer(CHECKS)
