"""A process that dies inside a transaction: ``python -m edgeadapt.demo.crash BUNDLE STATE`` never
returns.

It reads labelled features from standard input (one JSON line), prints the digest of the last
commit, starts to learn, and sends itself SIGKILL after its rows are written and before the
transaction commits.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np

from edgeadapt.device.learner import open as open_learner


def main() -> None:
    bundle, state = sys.argv[1:3]
    given = json.loads(sys.stdin.readline())
    x = np.array(given["x"], np.uint8)
    learner = open_learner(bundle, state=state)
    print(
        json.dumps(
            {"pid": os.getpid(), "digest": learner.digest(), "commit": learner.history(1)[0].number}
        ),
        flush=True,
    )

    def die(step: str) -> None:
        if step == "rows":
            os.kill(os.getpid(), signal.SIGKILL)

    learner._journal.at = die  # the one place where a fault can be put exactly
    learner.learn(x, given["y"], source="the process that died")
    learner.settle()


if __name__ == "__main__":
    main()
