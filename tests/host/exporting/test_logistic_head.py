"""A logistic regression beside the head: what it solves, which features it sees, and when it is not
there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeadapt
from edgeadapt import host
from edgeadapt.device.commits import head_choice, logistic_head
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.guard import ValidationSet
from edgeadapt.device.commits.logistic_head import LogisticHead
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.inference.state import Domain, DomainPrototypes, LearnerState
from edgeadapt.device.numerics.logistic_regression import logistic
from edgeadapt.runtime import Tensors
from edgeadapt.testing import inspect_state

DIM, NAMES = 12, ("a", "b", "c")


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = 1.5 * np.random.default_rng(5).standard_normal((3, DIM))[y] + rng.standard_normal(
        (count, DIM)
    )
    return x.astype(np.float32), y


def test_no_step_in_any_direction_lowers_the_loss() -> None:
    x, y = blobs(80, 0)
    weight = np.random.default_rng(1).uniform(0.5, 3.0, 80).astype(np.float32)
    (found,) = logistic(x, y, weight, 3, [10.0])
    centred = x - x.mean(axis=0, dtype=np.float64)
    length = np.sqrt((centred**2).sum(axis=1).mean())
    rows = np.hstack([centred / length, np.ones((80, 1))])
    scaled = np.vstack(
        [found[:-1] * length, found[-1:] + x.mean(axis=0, dtype=np.float64) @ found[:-1]]
    )
    p = np.exp(rows @ scaled)
    p /= p.sum(axis=1, keepdims=True)
    gradient = rows.T @ (weight[:, None] * (p - np.eye(3)[y])) + scaled / 10.0
    assert np.abs(gradient).max() < 1e-3 * weight.mean() and np.abs(found).max() > 0.1


def test_a_row_of_weight_two_is_two_rows() -> None:
    x, y = blobs(60, 2)
    twice, once = np.ones(60, np.float32), np.concatenate([np.arange(60), np.arange(20)])
    twice[:20] = 2.0
    (weighted,), (repeated,) = (
        logistic(x, y, twice, 3, [1e4]),
        logistic(x[once], y[once], np.ones(80, np.float32), 3, [1e4]),
    )
    a, b = x @ weighted[:-1] + weighted[-1], x @ repeated[:-1] + repeated[-1]
    assert np.abs(
        (a - a.mean(axis=1, keepdims=True)) - (b - b.mean(axis=1, keepdims=True))
    ).max() < 0.05 * np.ptp(a)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logistic") / "blobs.edge"
    host.export(path, host.Identity(DIM), blobs(90, 0), NAMES, stress=False)
    return path


def features(program: object, z: np.ndarray, live: LearnerState, domain: str) -> np.ndarray:
    return LogisticHead(program)._features(live, z, np.zeros((len(z), 0), np.float32), domain)  # type: ignore[arg-type]


def test_it_sees_what_the_head_sees_corrected_and_projected(bundle: Path) -> None:
    with edgeadapt.open(bundle) as learner:
        live, program = inspect_state(learner).state, inspect_state(learner).program
        z, offset = blobs(40, 3)[0], np.linspace(-2.0, 2.0, DIM, dtype=np.float32)
        here = program.runtime.upload({"correct.mean": program.numbers("correct.source") + offset})
        moved = live.with_domain(
            Domain("moved", "condition", DomainPrototypes.empty(3, 1), tensors=here)
        )
        plain = features(program, z, moved, "source")
        assert np.allclose(
            features(program, z + offset, moved, "moved"), plain, atol=2e-3 * np.abs(plain).max()
        )
        weight = program.runtime.download(live.tensors, ("head.weight",))["head.weight"]
        logits = program.forward_head(z, np.zeros((40, 0), np.float32), live.tensors).logits[:, :3]
        assert np.allclose(
            plain @ weight[:-1, :3] + weight[-1, :3], logits, atol=2e-3 * np.abs(logits).max()
        )


def test_a_class_of_which_no_row_is_left_leaves_the_head_alone(bundle: Path) -> None:
    with edgeadapt.open(bundle) as learner:
        live, program = inspect_state(learner).state, inspect_state(learner).program
        z, y = blobs(60, 4)
        none = np.zeros((60, 0), np.float32)

        def beside(rows: np.ndarray) -> Tensors:
            known = ValidationSet(
                "factory samples", z[rows], none[rows], y[rows], "source", np.arange(3), None
            )
            return LogisticHead(program).beside(live.tensors, live, [known], [])

        assert beside(y < 2) is live.tensors
        both, alone = (
            program.forward_head(z, none, tensors).logits[:, :3]
            for tensors in (beside(y < 3), live.tensors)
        )
        assert np.abs(both - alone).max() > 0.1 and np.mean(both.argmax(axis=1) == y) >= np.mean(
            alone.argmax(axis=1) == y
        )


def test_samples_are_bounded_and_many_classes_leave_the_head_alone(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(x: np.ndarray, *rest: object) -> list[np.ndarray]:
        seen.append(len(x))
        return logistic(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(logistic_head, "logistic", counted)
    with edgeadapt.open(bundle) as learner:
        live, program = inspect_state(learner).state, inspect_state(learner).program
        z, y = blobs(900, 4)
        known = ValidationSet(
            "factory samples", z, np.zeros((900, 0), np.float32), y, "source", np.arange(3), None
        )
        assert LogisticHead(program).beside(live.tensors, live, [known], []) is not live.tensors
        assert max(seen) == 512
        monkeypatch.setattr(logistic_head, "_CLASSES", 2)
        assert LogisticHead(program).beside(live.tensors, live, [known], []) is live.tensors
        assert LogisticHead(program).beside(live.tensors, live, [], []) is live.tensors


def taught(learner: edgeadapt.Learner, x: np.ndarray, names: list[str]) -> None:
    learner.learn(None, names, features={"z": x}, trusted=True)
    learner.settle()


def test_a_label_that_does_not_count_teaches_nothing(bundle: Path) -> None:
    with edgeadapt.open(bundle) as learner:
        x, y = blobs(40, 6)
        taught(learner, x, [NAMES[k] for k in y])
        live, program = inspect_state(learner).state, inspect_state(learner).program
        rows = inspect_state(learner).journal.evidence(where="status IN ('learned', 'held_out')")
        wrong = [
            replace(row, label=NAMES[(NAMES.index(row.label) + 1) % 3], weight=0.0) for row in rows
        ]
        with_them, without, counting = (
            program.forward_head(
                x,
                np.zeros((40, 0), np.float32),
                LogisticHead(program).beside(
                    live.tensors,
                    live,
                    FactorySamples(inspect_state(learner).program).sets(live),
                    given,
                ),
            ).logits
            for given in (
                [*rows, *wrong],
                rows,
                [*rows, *(replace(row, weight=1.0) for row in wrong)],
            )
        )
        assert np.array_equal(with_them, without) and np.abs(counting - without).max() > 0.1


def test_labels_that_are_refused_turn_nothing_on(bundle: Path) -> None:
    with edgeadapt.open(bundle) as learner:
        x, y = blobs(24, 7)
        learner.learn(None, [NAMES[(k + 1) % 3] for k in y], features={"z": x}, source="liar")
        learner.settle()
        assert (
            inspect_state(learner).state.labels == 0
            and learner.counters()["evidence"].get("held", 0) == 24
        )
        assert not inspect_state(learner).state.heads


def test_a_class_whose_labels_are_old_keeps_its_part(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_choice, "ROWS", 20)
    with edgeadapt.open(bundle, policy=Policy(new_classes="add")) as learner:
        far = (12.0 + np.random.default_rng(1).standard_normal((6, DIM))).astype(np.float32)
        taught(learner, far, ["new"] * 6)
        x, y = blobs(40, 8)
        taught(learner, x, [NAMES[k] for k in y])
        live = inspect_state(learner).state
        judged, answering = (
            inspect_state(learner)
            .program.forward_head(x, np.zeros((40, 0), np.float32), tensors)
            .logits
            for tensors in (live.tensors, live.tensors_in("source"))
        )
        newest = inspect_state(learner).journal.evidence(
            where="status IN ('learned', 'held_out')", limit=20, newest_first=True
        )
        assert "new" not in {row.label for row in newest} and np.abs(answering - judged).max() > 0.5
        assert learner.predict(features={"z": far}).labels == ("new",) * 6


def test_what_expired_answers_no_more(bundle: Path, tmp_path: Path) -> None:
    with edgeadapt.open(bundle, state=tmp_path) as learner:
        x, y = blobs(60, 9)
        taught(learner, x, [NAMES[k] for k in y])
        before = inspect_state(learner).state.heads["source"]
        inspect_state(learner).worker.call(lambda: inspect_state(learner).retention.expire(0.0, 10))
        assert "source" not in inspect_state(learner).state.heads
        learner._training.offer()
        learner.settle()
        now = learner.predict(features={"z": x}).probs
        assert inspect_state(learner).state.heads["source"] is not before
    with edgeadapt.open(bundle, state=tmp_path) as learner:
        learner.settle()
        assert np.allclose(learner.predict(features={"z": x}).probs, now, atol=1e-4)
