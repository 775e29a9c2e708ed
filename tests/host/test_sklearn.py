"""The learner as scikit-learn's estimator: its own checks, and what they do not ask."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn", minversion="1.6")
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import edgeadapt
from edgeadapt.sklearn import EXPECTED_FAILURES, EdgeClassifier

NAMES = ("dent", "ok", "scratch")


def parts(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of three classes that lie apart, and their names."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    return (
        4 * np.eye(3, 6, dtype=np.float32)[y] + rng.standard_normal((count, 6)).astype(np.float32),
        np.array(NAMES)[y],
    )


@pytest.fixture(scope="module")
def fitted() -> EdgeClassifier:
    """It knows all three and has met two of them, of the third only two rows."""
    x, y = parts(120)
    few = (y != "scratch") | (np.cumsum(y == "scratch") <= 2)
    return EdgeClassifier(random_state=0).partial_fit(
        x[few], y[few], classes=["scratch", "ok", "dent"]
    )


@pytest.mark.slow
@parametrize_with_checks(
    [EdgeClassifier()], expected_failed_checks=lambda estimator: EXPECTED_FAILURES
)
def test_scikit_learns_own_checks(estimator: EdgeClassifier, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def test_names_go_in_and_come_out(fitted: EdgeClassifier) -> None:
    x, y = parts(60, seed=1)
    known = y != "scratch"
    assert fitted.classes_.tolist() == list(NAMES) and fitted.score(x[known], y[known]) > 0.9
    probs = fitted.predict_proba(x)
    assert probs.shape == (60, 3) and np.allclose(probs.sum(axis=1), 1) and (probs >= 0).all()
    assert (fitted.predict(x) == fitted.classes_[probs.argmax(axis=1)]).all()


def test_a_class_of_two_rows_is_taught_and_more_of_them_teach_it_better(
    fitted: EdgeClassifier,
) -> None:
    (x, y), (test_x, test_y) = parts(60, seed=2), parts(200, seed=3)
    third, wanted = y == "scratch", test_y == "scratch"
    taught = pickle.loads(pickle.dumps(fitted))
    before = np.mean(taught.predict(test_x[wanted]) == "scratch")
    taught.partial_fit(x[third], y[third])
    after = np.mean(taught.predict(test_x[wanted]) == "scratch")
    assert after > 0.85 and after >= before and taught.score(test_x, test_y) > 0.85
    again = pickle.loads(pickle.dumps(taught))
    np.testing.assert_allclose(again.predict_proba(test_x), taught.predict_proba(test_x), atol=1e-5)


def test_what_was_not_named_at_first_is_refused(fitted: EdgeClassifier) -> None:
    with pytest.raises(
        ValueError,
        match=r"y has 'hole', which classes of the first call .* \['dent', 'ok', 'scratch'\]",
    ):
        fitted.partial_fit(np.zeros((1, 6)), ["hole"])
    with pytest.raises(ValueError, match="needs two classes of at least 5 samples each"):
        EdgeClassifier().fit(np.zeros((8, 6)), ["ok"] * 5 + ["dent"] * 3)
    with pytest.raises(NotFittedError):
        EdgeClassifier().predict(np.zeros((1, 6)))


def test_a_device_opens_what_was_saved(fitted: EdgeClassifier, tmp_path: Path) -> None:
    x, _ = parts(20, seed=4)
    with edgeadapt.open(fitted.save(tmp_path / "lines.edge")) as learner:
        assert learner.classes == ("dent", "ok")  # what was taught afterwards is state
        assert len(learner.predict(features={"z": x})) == 20
