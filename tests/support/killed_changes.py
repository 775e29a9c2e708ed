"""Processes that die where they are told: ``python killed_changes.py BUNDLE`` reads one
case per line and forks one child for each.

A case is {"state", "change", "step"}: open the state folder, make the change, and SIGKILL the
process at that step of the journal's transaction. Nothing of the engine is loaded before the fork.
It answers each case with the child's exit status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from learner_steps import watch
from sample_images import images

from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.testing import inspect_state

DOMAIN = "condition-1"
STEPS = ("begin", "rows", "before_commit", "after_commit")


def prepare(learner: Learner) -> None:
    """A state in which every change has something to do: three sources, a new class, a provisional
    condition, labels that wait.
    """
    x, names = images(160)
    learner.learn(x[:60], names[:60], source="a")
    learner.learn(x[60:100], names[60:100], source="b")
    learner.add_class("Bag")
    learner.learn(*images(20, classes=("Bag",)), source="a")
    watch(learner, images(96, condition="fog")[0], stream="foggy")
    learner.checkpoint()
    learner.freeze()
    learner.learn(x[100:], names[100:], source="c")


CHANGES: dict[str, Callable[[Learner], object]] = {
    "learn": lambda learner: (learner.freeze(False), learner.settle()),
    "forget": lambda learner: learner.forget(source="b"),
    "rollback": lambda learner: learner.rollback(1),
    "add_class": lambda learner: learner.add_class("Sneaker"),
    "remove_class": lambda learner: learner.remove_class("Bag"),
    "confirm": lambda learner: inspect_state(learner).worker.call(
        lambda: inspect_state(learner).conditions.answered([("", DOMAIN, False)] * 5, {})
    ),
}


def die_at(learner: Learner, step: str) -> None:
    def at(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    inspect_state(learner).journal.at = at


def label_and_die(state: Path, bundle: str) -> None:
    """Label one sample of a frozen learner; the process is gone as soon as ``label`` has
    returned.
    """
    x, names = images(1)
    learner = open_learner(bundle, state=state, freeze=True)
    learner.label(learner.observe(np.repeat(x, 3, axis=0)).ids[1], names[0], source="hand")
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    bundle = sys.argv[1]
    for line in sys.stdin:
        case = json.loads(line)
        child = os.fork()
        if child == 0:
            if case["change"] == "label":
                label_and_die(Path(case["state"]), bundle)
            learner = open_learner(bundle, state=case["state"], freeze=True)
            die_at(learner, case["step"])
            CHANGES[case["change"]](learner)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
