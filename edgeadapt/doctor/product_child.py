"""Runs in a child process, since a runtime may bring an engine that crashes:

python -m edgeadapt.doctor.product_child runtimes     which are registered, and why one cannot run
python -m edgeadapt.doctor.product_child bundle       the bundle that ships opens and predicts
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from edgeadapt.errors import EdgeadaptError


def runtimes() -> dict[str, Any]:
    from edgeadapt.runtime import available_runtimes

    return {"runtimes": [asdict(status) for status in available_runtimes()]}


def bundle() -> dict[str, Any]:
    from edgeadapt.demo.sample import bundle_path, load_sample
    from edgeadapt.device.learner import open as open_learner

    try:
        with open_learner(bundle_path()) as learner:
            label = learner.predict(load_sample().x[0]).labels[0]
    except (EdgeadaptError, OSError) as error:
        return {"error": str(error)}
    return {"name": bundle_path().name, "label": label}


if __name__ == "__main__":
    print(json.dumps({"runtimes": runtimes, "bundle": bundle}[sys.argv[1]]()))
