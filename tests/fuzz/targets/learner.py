"""A learner's calls in any order with arguments of any type: whatever was refused, it answers and
saves as before.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.errors import BudgetError, CapacityError, InputError, StateError, UnknownClassError
from fuzz import shipped
from fuzz.edits import tree
from fuzz.target import Execute, Target
from fuzz.values import WORDS, build

CALLS = (
    "predict",
    "observe",
    "label",
    "learn",
    "forget",
    "withdraw",
    "add_class",
    "remove_class",
    "rollback",
    "history",
    "questions",
    "checkpoint",
    "decisions",
    "is_pending",
    "freeze",
    "domain",
    "settle",
    "counters",
)
_REFUSALS = (InputError, UnknownClassError, CapacityError, BudgetError, StateError)
_WORDS = (
    *WORDS,
    *CALLS,
    "id",
    "images",
    "fog",
    "x",
    "y",
    "ids",
    "labels",
    "source",
    "stream",
    "features",
    "classes",
    "before",
    "after",
    "to",
    "limit",
    "name",
    "Coat",
    "Sandal",
    "new",
)
_MAX_CALLS = 12


def _script(*calls: dict[str, Any]) -> bytes:
    return json.dumps({"policy": "refuse", "calls": list(calls)}).encode()


def _call(call: str, /, **arguments: Any) -> dict[str, Any]:
    return {"call": call, "with": arguments}


def seeds() -> list[bytes]:
    z, taps = (
        {"array": {"dtype": "<f4", "shape": [2, 96], "fill": "noise", "order": "C"}}
        for _ in range(2)
    )
    observe = _call("observe", x={"images": [0, 6]}, stream="cam")
    return [
        _script(
            observe,
            _call("label", ids=[{"id": 0}, {"id": 1}], labels=["Coat", "Trouser"], source="ann"),
            _call("label", ids={"id": 0}, labels=2),
            _call("withdraw", ids={"id": 1}),
        ),
        _script(
            _call(
                "learn", x={"images": [4, 9]}, y={"repeat": ["Coat", 5]}, source="ann", stream="cam"
            ),
            _call("forget", source="ann"),
            _call("history", limit=5),
        ),
        _script(
            _call("learn", x=None, y=["Coat", "Sandal"], features={"z": z, "taps": taps}),
            _call("rollback", to=0),
            _call("predict", x={"images": [0, 3]}),
        ),
        _script(
            _call("observe", x={"fog": [0, 32]}),
            _call("observe", x={"fog": [32, 96]}),
            _call("questions", limit=3),
            _call("checkpoint"),
            _call("decisions", limit=4),
        ),
        _script(
            _call("add_class", name="new"),
            _call("learn", x={"images": [0, 2]}, y="new"),
            _call("remove_class", name="new"),
            _call("domain", stream="cam"),
        ),
        _script(
            observe,
            _call("label", ids=[{"id": 2}], labels=["Coat"]),
            _call("forget", ids=[{"id": 2}]),
            _call("forget", classes=["Coat"], before={"float": "inf"}, after=0),
        ),
        _script(
            observe,
            _call("is_pending", sample={"id": 3}),
            _call("freeze", frozen=True),
            _call("settle", timeout_s=1),
            _call("counters"),
        ),
    ]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    script, calls = json.loads(data), json.loads(other)["calls"]
    if rng.random() < 0.3:
        script["calls"].insert(rng.randrange(len(script["calls"]) + 1), rng.choice(calls))
    if rng.random() < 0.1:
        script["policy"] = rng.choice(("refuse", "add"))
    call = rng.choice(script["calls"])
    edited = tree.edit(rng, {"with": call["with"]}, texts=_WORDS)
    if isinstance(edited, dict) and isinstance(edited.get("with"), dict):
        call["with"] = edited["with"]
    script["calls"] = script["calls"][:_MAX_CALLS]
    return json.dumps(script).encode()


def prepare(scratch: Path) -> Execute:
    shipped.clean(), shipped.fog()

    def execute(data: bytes) -> None:
        script = json.loads(data)
        with (
            shipped.opened(policy=Policy(new_classes=script["policy"])) as learner,
            np.errstate(all="ignore"),
        ):
            refusals = _play(learner, script["calls"])
            learner.freeze(False)
            try:
                learner.settle()
            except _REFUSALS as refused:
                refusals.append(refused)
            probs = learner.predict(shipped.clean()[0][:3]).probs
            assert np.isfinite(probs).all() and len(learner.digest()) == 64
            assert "received" not in learner.counters()["evidence"], (
                "a label that was taken is never learned"
            )
        if refusals and len(refusals) >= len(script["calls"]):
            raise refusals[-1]

    return execute


def _play(learner: Learner, calls: list[dict[str, Any]]) -> list[Exception]:
    ids: list[str] = []
    x, fog = shipped.clean()[0], shipped.fog()
    more = {
        "id": lambda given: ids[given],
        "images": lambda given: x[given[0] : given[1]],
        "fog": lambda given: fog[given[0] : given[1]],
    }
    refusals: list[Exception] = []
    for call in calls:
        arguments = build(call["with"], more)
        known = (
            {name: value for name, value in arguments.items() if name in _PARAMETERS[call["call"]]}
            if isinstance(arguments, dict)
            else {}
        )
        try:
            found = getattr(learner, call["call"])(**known)
        except _REFUSALS as refused:
            refusals.append(refused)
            continue
        except TypeError as error:
            if "required positional argument" not in str(error):
                raise
            refusals.append(InputError("a call without an argument it needs"))
            continue
        if call["call"] == "observe":
            ids += found.ids
            learner.settle()
    return refusals


_PARAMETERS = {
    name: tuple(inspect.signature(getattr(Learner, name)).parameters)[1:] for name in CALLS
}


def is_past_header(error: Exception) -> bool:
    return False


_MODULES = (
    "edgeadapt.device.learner",
    "edgeadapt.device.pipeline.evidence_builder",
    "edgeadapt.device.inference.predictor",
    "edgeadapt.inputs",
)
TARGET = Target(
    "learner",
    seeds,
    mutate,
    prepare,
    _REFUSALS,
    is_past_header,
    _MODULES,
    share=4,
    memory_mib=512,
    seconds=30.0,
)
