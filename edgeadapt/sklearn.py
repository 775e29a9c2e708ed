"""A learner in scikit-learn's clothes.

``fit`` exports a bundle for feature vectors and opens it, ``partial_fit`` teaches it.

    from edgeadapt.sklearn import EdgeClassifier

    model = EdgeClassifier().fit(features, ["ok", "scratch", "ok", ...])
    model.partial_fit(more, their_labels)
    model.save("lines.edge")            # what a device opens, without scikit-learn and PyTorch

It needs the extra ``sklearn``, which brings the host's. Of scikit-learn's own checks none is an
expected failure (run with 1.9); one that could not apply belongs into :data:`EXPECTED_FAILURES`.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import InputError, RuntimeUnavailable

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise RuntimeUnavailable(
        f"{error}: edgeadapt.sklearn needs: pip install 'edgeadapt[sklearn]'"
    ) from error

FEWEST = 5  # rows of a class that an export takes; a class of fewer is taught afterwards
_PATIENCE_S = 600.0

EXPECTED_FAILURES: dict[str, str] = {}
"""Name of a check of scikit-learn's -> why it cannot hold here. There is none."""


class EdgeClassifier(ClassifierMixin, BaseEstimator):
    """Feature vectors in, classes out, by the learner that a device runs.

    Args:
        head: of ``host.Settings``: "slda", "ridge", "nearest_mean", "key_value", or an object.
        class_slots: classes that it can hold; more if ``fit`` meets more.
        random_state: of the splits by which the export judges.

    Attributes:
        classes_: (C,) the labels as they were given, sorted.
        n_features_in_: width of a row.
        learner_: the open learner, for all that scikit-learn has no word for.

    ``partial_fit`` gives labels as a person's (``trusted``), and what the learner's guard thinks of
    them is its own: a batch that makes the held-out answers worse is taken back. A fitted model is
    pickled as its bundle and the rows that ``partial_fit`` brought, which are learned again.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((40, 3)) + np.repeat([[0.0], [9.0]], 20, axis=0)
    >>> model = EdgeClassifier().fit(x, ["ok"] * 20 + ["scratch"] * 20)  # doctest: +SKIP
    >>> model.predict([[9.0, 9.0, 9.0]])  # doctest: +SKIP
    array(['scratch'], dtype='<U7')
    """

    def __init__(self, head: Any = "slda", class_slots: int = 32, random_state: Any = None) -> None:
        self.head = head
        self.class_slots = class_slots
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> EdgeClassifier:
        """Export a bundle from ``X`` (N, D) and the labels ``y`` (N,), and open it.

        Raises:
            ValueError: fewer than two classes of five rows each, or no data for a classifier.
        """
        X, y = self._checked(X, y, is_first=True)
        self._begin(X, y, unique_labels(y))
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> EdgeClassifier:
        """Teach rows; the first call exports, as ``fit``, and names in ``classes`` what may come.

        Raises:
            ValueError: as ``fit``; a label that ``classes`` of the first call did not name.
        """
        is_first = not hasattr(self, "classes_")
        X, y = self._checked(X, y, is_first=is_first)
        known = (
            self.classes_
            if not is_first
            else unique_labels(y)
            if classes is None
            else unique_labels(classes)
        )
        if len(strangers := np.setdiff1d(y, known)):
            raise ValueError(
                f"y has {strangers.tolist()[0]!r}, which classes of the first call of partial_fit "
                f"do not name: {known.tolist()}"
            )
        if is_first:
            self._begin(X, y, known)
        else:
            self._teach(X, self._names_of(y))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """(N,) the most probable class of each row."""
        probs = self.predict_proba(X)  # first: it says what is not fitted yet
        chosen: NDArray[Any] = self.classes_[probs.argmax(axis=1)]
        return chosen

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(N, C) by class, in the order of ``classes_``; a row adds up to 1."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float32)
        answer = self.learner_.predict(features={"z": X})
        column = {name: place for place, name in enumerate(answer.classes)}
        probs = np.zeros((len(X), len(self.classes_)))
        for place, name in enumerate(self._names):
            if name in column:  # a class that no row has shown yet has no column
                probs[:, place] = answer.probs[:, column[name]]
        return probs / probs.sum(axis=1, keepdims=True)

    @property
    def learner_(self) -> Learner:
        """Open since ``fit``; after a pickle was read, from when it is first asked for."""
        check_is_fitted(self)
        if "_open" not in self.__dict__:
            self._open = _Opened(self._bundle)
            for X, names in self._taught:
                self._open.teach(X, names)
        return self._open.learner

    def save(self, path: str | Path) -> Path:
        """Write the bundle as ``fit`` made it.

        What ``partial_fit`` taught is the learner's state, and no part of it.

        Raises:
            NotFittedError: there is none yet.
            OSError: it cannot be written.
        """
        check_is_fitted(self)
        place = Path(path)
        place.write_bytes(self._bundle)
        return place

    # -- inside -----------------------------------------------------------------------------
    def _checked(
        self, X: Any, y: Any, *, is_first: bool
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        X, y = validate_data(self, X, y, reset=is_first, dtype=np.float32)
        check_classification_targets(y)
        return X, y

    def _begin(self, X: NDArray[np.float32], y: NDArray[Any], classes: NDArray[Any]) -> None:
        labels, counts = np.unique(y, return_counts=True)
        large = labels[counts >= FEWEST]
        if len(large) < 2:
            raise ValueError(
                f"needs two classes of at least {FEWEST} samples each to begin with; "
                f"n_samples = {len(y)} of {len(labels)} class{'' if len(labels) == 1 else 'es'}, "
                f"n_features = {X.shape[1]}"
            )
        self.__dict__.pop("_open", None)
        self.classes_, self._taught = classes, []
        self._names = [str(label) for label in classes.tolist()]
        if len(set(self._names)) < len(self._names) or not all(self._names):
            raise ValueError(f"classes need distinct names, got {self._names}")
        is_large = np.isin(y, large)
        self._bundle = self._exported(X[is_large], self._names_of(y[is_large]))
        self._open = _Opened(self._bundle)
        if not is_large.all():
            self._teach(X[~is_large], self._names_of(y[~is_large]))

    def _exported(self, X: NDArray[np.float32], names: list[str]) -> bytes:
        from edgeadapt.host import Identity, export

        seed = (
            int(check_random_state(self.random_state).randint(1 << 31))
            if self.random_state is not None
            else 0
        )
        slots = max(int(self.class_slots), len(self.classes_))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.edge"
            export(
                path,
                Identity(X.shape[1]),
                (X, names),
                head=self.head,
                class_slots=slots,
                seed=seed,
                adapt="none",
                stress=False,
                quiet=True,
            )
            return path.read_bytes()

    def _teach(self, X: NDArray[np.float32], names: list[str]) -> None:
        self.learner_  # noqa: B018  # opened first: what was taught before comes before
        self._taught.append((X, names))
        self._open.teach(X, names)

    def _names_of(self, y: NDArray[Any]) -> list[str]:
        return [self._names[place] for place in np.searchsorted(self.classes_, y)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_open"}


class _Opened:
    """A learner in memory on a bundle in a folder of its own; both go when nobody holds it."""

    def __init__(self, bundle: bytes) -> None:
        folder = tempfile.mkdtemp(prefix="edgeadapt-sklearn-")
        path = Path(folder) / "model.edge"
        path.write_bytes(bundle)
        self.learner = open_learner(
            path,
            policy=Policy(new_classes="add", quiet_questions_per_day=0),
            budget=Budget(busy_fraction=1.0),
        )
        weakref.finalize(self, _let_go, self.learner, folder)

    def teach(self, X: NDArray[np.float32], names: Sequence[str]) -> None:
        self.learner.learn(None, list(names), features={"z": X}, trusted=True)
        if not self.learner.settle(_PATIENCE_S):
            raise InputError(
                f"{len(names)} rows were not learned within {_PATIENCE_S:g} s; give fewer at once"
            )


def _let_go(learner: Learner, folder: str) -> None:
    learner.close()
    shutil.rmtree(folder, ignore_errors=True)


__all__ = ["EXPECTED_FAILURES", "EdgeClassifier"]
