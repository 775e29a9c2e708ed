"""A life that an earlier version wrote is the same life today: story, answers, and every bit.

The folders are ``golden/format1`` and ``golden/format2``: each has a condition with an adaptor, a
rollback, and labels that were withdrawn and forgotten.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from golden.lives import answers, machine, story
from golden_files import GOLDEN

import edgeadapt
from edgeadapt import Budget, cli

BUNDLES = {"format1": GOLDEN / "growing.edge", "format2": GOLDEN / "format2" / "growing.edge"}


class Life(NamedTuple):
    """A copy of a kept folder, and what it must say."""

    format: int
    bundle: Path
    state: Path
    expected: dict[str, Any]
    answers: dict[str, Any]

    def opened(self, **options: Any) -> Any:
        return edgeadapt.open(
            self.bundle, state=self.state, budget=Budget(busy_fraction=1.0), **options
        )


@pytest.fixture(params=sorted(BUNDLES))
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Life]:
    kept = GOLDEN / request.param
    (tmp_path / "state").mkdir()
    shutil.copy(kept / "learner.db", tmp_path / "state")
    expected = json.loads((kept / "expected.json").read_text())
    with np.load(kept / "answers.npz") as stored:
        yield Life(
            int(request.param.removeprefix("format")),
            BUNDLES[request.param],
            tmp_path / "state",
            expected,
            dict(stored),
        )


def test_the_bundle_is_of_the_format_that_it_stands_for(life: Life) -> None:
    assert edgeadapt.read_bundle(life.bundle).manifest.format == life.format


def test_it_tells_the_same_story_gives_the_same_answers_and_has_the_same_digest(life: Life) -> None:
    with life.opened(freeze=True) as learner:
        told = story(learner)
        assert told == {name: life.expected[name] for name in told}
        if machine() == life.expected["machine"]:  # elsewhere the same up to rounding
            assert learner.digest() == life.expected["digest"]
        for condition, probs in answers(learner).items():
            np.testing.assert_allclose(probs, life.answers[condition], rtol=0, atol=1e-5)


def test_it_is_what_its_journal_says_commit_by_commit(
    life: Life, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["replay", str(life.state), "--bundle", str(life.bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    steps = [f"{step['number']} {step['kind']}: {step['outcome']}" for step in found["steps"]]
    assert steps == life.expected["history"] and found["verdict"] != "different"
    if machine() == life.expected["machine"]:
        met = {step["digest"] for step in found["steps"]}
        assert met == {"equal", "without rows that were forgotten since"}
        assert found["resumed"] == "equal"


def test_it_learns_on_goes_back_and_is_there_after_a_restart(life: Life) -> None:
    x, classes = np.eye(12, dtype=np.float32), life.expected["classes"]
    with life.opened() as learner:
        learner.settle()
        number = learner.history(1)[0].number
        learner.learn(np.repeat(x[:4], 8, axis=0), np.repeat(classes[:4], 8).tolist())
        learner.settle()
        assert learner.history(1)[0].number > number
        assert learner.rollback(number) == number
        assert learner.forget(source="line 2").removed == 20
        digest = learner.digest()
    with life.opened(freeze=True) as again:
        assert again.digest() == digest
