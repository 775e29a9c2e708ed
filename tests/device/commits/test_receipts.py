"""Tensors that count need no stored feature to forget: a receipt of a few bytes says where a sample
was counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_vectors import samples
from golden_files import GOLDEN
from learner_steps import tensors

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import InputError, StateError
from edgeadapt.testing import inspect_state

COUNTS = "codes.counts"
AT_ONCE = Keep(features_days=0.0)


@pytest.fixture(scope="module")
def counting() -> Bundle:
    return read_bundle(GOLDEN / "counting.edge")


def teach(
    learner: Learner, count: int, seed: int, source: str, classes: tuple[int, ...] = (0, 1, 2, 3)
) -> tuple[str, ...]:
    x, names = samples(count, list(classes), seed)
    ids = learner.learn(x, names, source=source)
    learner.settle()
    return ids


def counts(learner: Learner) -> Any:
    return tensors(learner)[COUNTS]


def test_every_learned_row_has_a_receipt_of_one_byte_per_book(counting: Bundle) -> None:
    with open_learner(counting) as learner:
        teach(learner, 40, 1, "a")
        rows = inspect_state(learner).journal.evidence()
        assert {len(row.receipt) for row in rows} == {4}
        keys = inspect_state(learner).program.numbers("codes.keys")
        for row in rows:
            parts = row.features[:12].astype(np.float32).reshape(4, 1, 3)
            assert list(row.receipt) == ((parts - keys) ** 2).sum(axis=2).argmin(axis=1).tolist()


def test_forgotten_counts_are_bit_for_bit_what_they_would_be(counting: Bundle) -> None:
    with open_learner(counting) as learner, open_learner(counting) as never:
        teach(never, 60, 2, "kept")
        teach(learner, 30, 1, "gone")
        teach(learner, 60, 2, "kept")
        assert counts(learner).dtype == np.int32 and (counts(learner) != counts(never)).any()
        receipt = learner.forget(source="gone")
        np.testing.assert_array_equal(counts(learner), counts(never))
        assert receipt.exact == (COUNTS,) and receipt.unreachable == () and receipt.removed == 30


def test_when_the_features_are_gone_counts_are_still_forgotten_and_what_is_out_of_reach_is_named(
    counting: Bundle, tmp_path: Path
) -> None:
    with (
        open_learner(counting, state=tmp_path / "s", keep=AT_ONCE) as learner,
        open_learner(counting) as never,
    ):
        teach(never, 60, 2, "kept")
        ids = teach(learner, 30, 1, "gone")
        teach(learner, 60, 2, "kept")
        learner.checkpoint()
        rows = inspect_state(learner).journal.evidence()
        assert (
            len(rows) == 90
            and not any(row.has_features for row in rows)
            and all(row.receipt for row in rows)
        )
        with pytest.raises(InputError, match="have expired"):
            learner.label(ids[0], "ok")
        with pytest.raises(StateError, match="have expired"):
            learner.rollback(1)
        receipt = learner.forget(source="gone")
        np.testing.assert_array_equal(counts(learner), counts(never))
        assert receipt.removed == 30 and any(
            "mean.moment, shift.moment cannot be told apart" in reason
            for reason in receipt.unreachable
        )
        digest, probs = learner.digest(), learner.predict(samples(50, [0, 1, 2, 3], 9)[0]).probs
    with open_learner(counting, state=tmp_path / "s", keep=AT_ONCE) as again:
        assert again.digest() == digest
        np.testing.assert_array_equal(again.predict(samples(50, [0, 1, 2, 3], 9)[0]).probs, probs)


def test_a_label_withdrawn_after_its_features_expired_leaves_the_counts_it_would_have_left(
    counting: Bundle,
) -> None:
    with open_learner(counting, keep=AT_ONCE) as learner, open_learner(counting) as never:
        ids = teach(learner, 50, 3, "a")
        x, names = samples(50, [0, 1, 2, 3], 3)
        never.learn(x[10:], names[10:])
        never.settle()
        learner.checkpoint()
        learner.withdraw(ids[:10])
        np.testing.assert_array_equal(counts(learner), counts(never))


def test_a_rollback_over_bare_rows_that_were_forgotten_is_as_if_they_had_never_been(
    counting: Bundle,
) -> None:
    with open_learner(counting, keep=AT_ONCE) as learner:
        ids = teach(learner, 7, 5, "a", classes=(0,))
        learner.checkpoint()
        learner.forget(ids=ids[:3])
        learner.rollback(2)
        rows = inspect_state(learner).journal.evidence(where="status IN ('learned', 'held_out')")
        assert len(rows) == 4 == inspect_state(learner).state.labels and all(
            row.status == "learned" for row in rows
        )


def test_a_bundle_without_receipts_forgets_no_row_that_has_expired_and_says_so() -> None:
    with open_learner(GOLDEN / "vectors.edge", keep=AT_ONCE) as learner:
        teach(learner, 30, 1, "a")
        learner.checkpoint()
        receipt = learner.forget(source="a")
        assert receipt.removed == 0 and "have expired" in receipt.unreachable[0]
