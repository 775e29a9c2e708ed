"""A bundle with two adaptors, for ``edgeadapt_bench.datasets.mirrored_domain``:
``python -m golden.growing FILE`` in ``tests/device``. Needs the host extra.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from edgeadapt_bench.datasets.mirrored_domain import NAMES, WIDTH, samples


def export(path: Any) -> None:
    from edgeadapt import host
    from edgeadapt.host.methods.adaptors.bottleneck import Bottleneck
    from edgeadapt.host.methods.adaptors.low_rank import LowRank

    x, names = samples(400, 1)
    labels = np.array([NAMES.index(name) for name in names])
    host.export(
        path,
        host.Identity(WIDTH),
        calibration=(x, labels),
        classes=NAMES,
        class_slots=8,
        domain_slots=4,
        guard_per_class=20,
        random_features=0,
        adapt="none",
        adaptors=(LowRank(4), Bottleneck(16)),
        name="growing",
    )


if __name__ == "__main__":
    import sys

    export(sys.argv[1])
