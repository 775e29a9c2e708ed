"""Bytes -> best head: what fits is tried, the best on held-out samples is taken, and bytes are
those of the declared tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Dims, FactoryData
from edgeadapt.host.exporting.head_search import Candidate, candidates, choose_head, head_bytes
from edgeadapt.host.exporting.settings import Settings
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.projection import HadamardProjection, PrincipalProjection
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.heads.slda import StreamingLDA

FEATURES, CLASSES, SLOTS = 96, 6, 10
_RNG = np.random.default_rng(5)
CENTRES = 0.6 * _RNG.standard_normal((CLASSES, FEATURES))
MIX = np.linalg.qr(_RNG.standard_normal((FEATURES, FEATURES)))[0] * np.geomspace(4.0, 0.3, FEATURES)


def data(count: int, seed: int, classes: int = CLASSES) -> FactoryData:
    """Classes that differ where the noise is small: a head that knows the covariance gains a
    lot.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    z = (CENTRES[y] + rng.standard_normal((count, FEATURES)) @ MIX.T).astype(np.float32)
    return FactoryData(
        z,
        np.zeros((count, 0), np.float32),
        y.astype(np.int64),
        np.full(count, 25 * classes / max(count, 1), np.float32),
        SLOTS,
    )


SMALL = [
    Candidate("nearest mean", NearestMean()),
    Candidate("slda", StreamingLDA()),
    Candidate("slda, 16 hadamard", StreamingLDA(projection=HadamardProjection(16))),
    Candidate("slda, 32 principal", StreamingLDA(projection=PrincipalProjection(32))),
]


def test_bytes_are_those_of_every_declared_tensor() -> None:
    dims = Dims(FEATURES, 0, SLOTS)
    assert head_bytes(NearestMean(), dims) == 4 * (
        (FEATURES + 1) * SLOTS + (FEATURES + 1) * SLOTS + FEATURES * SLOTS + SLOTS
    )
    assert head_bytes(Ridge(), dims, ("evidence",)) == 4 * (
        (FEATURES + 1) ** 2 + 2 * (FEATURES + 1) * SLOTS
    )
    for candidate in candidates(dims):
        assert head_bytes(candidate.head, dims) == sum(
            head_bytes(candidate.head, dims, (kind,)) for kind in ("evidence", "frozen", "derived")
        )


def test_without_a_limit_the_head_that_knows_the_covariance_is_taken_and_all_were_tried() -> None:
    choice = choose_head(data(600, 1), data(300, 2), heads=SMALL)
    assert choice.label == "slda" and isinstance(choice.head, StreamingLDA)
    accuracy = {row.label: row.accuracy for row in choice.rows}
    assert len(accuracy) == len(SMALL) and None not in accuracy.values()
    assert accuracy["slda"] == max(a for a in accuracy.values() if a is not None)
    assert [row.bytes for row in choice.rows] == sorted(row.bytes for row in choice.rows)
    assert choice.table().count("<-") == 1 and f"{accuracy['slda']:.1%}" in choice.table()


@pytest.mark.parametrize("kib", [8.0, 12.0, 20.0, 30.0, 60.0])
def test_what_is_chosen_fits_and_a_larger_budget_is_never_worse(kib: float) -> None:
    fits, more = (
        choose_head(data(300, 1), data(200, 2), budget, heads=SMALL) for budget in (kib, 2 * kib)
    )
    dims = data(1, 1).dims
    assert head_bytes(fits.head, dims) <= 1024 * kib

    def best(choice: Any) -> float:
        return max(row.accuracy for row in choice.rows if row.accuracy is not None)

    assert next(row.accuracy for row in fits.rows if row.label == fits.label) == best(fits)
    assert best(more) >= best(fits)
    assert all(row.accuracy is None for row in fits.rows if row.bytes > 1024 * kib)


def test_means_move_into_the_projection_only_where_that_makes_a_head_fit() -> None:
    dims, only = data(1, 1).dims, [SMALL[2]]
    full = head_bytes(SMALL[2].head, dims) / 1024
    assert not choose_head(data(120, 1), data(60, 2), full, heads=only).head.compact  # type: ignore[attr-defined]
    compact = choose_head(data(120, 1), data(60, 2), full - 0.1, heads=only)
    assert compact.label == "slda, 16 hadamard, compact" and compact.head.compact  # type: ignore[attr-defined]


def test_a_budget_that_nothing_fits_names_the_smallest_head_and_its_bytes() -> None:
    compact = StreamingLDA(projection=HadamardProjection(16), compact=True)
    size = f"{head_bytes(compact, data(1, 1).dims) / 1024:.1f} KiB"
    with pytest.raises(
        InputError,
        match=(
            "no head fits into state_kib = 2 at 96 features and 10 class slots: the smallest,"
            f" slda, 16 hadamard, compact, takes {size}"
        ),
    ):
        choose_head(data(60, 1), data(60, 2), 2, heads=SMALL)


@pytest.mark.parametrize("kib", [0.0, -3.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_number_of_bytes_is_refused(kib: float) -> None:
    with pytest.raises(InputError, match="state_kib is a positive number of KiB"):
        choose_head(data(60, 1), data(60, 2), kib)


def test_calibration_that_cannot_judge_is_refused() -> None:
    empty, broken, narrow = data(0, 1), data(60, 1), data(60, 1)
    broken.z[3, 3] = np.nan
    with pytest.raises(InputError, match="there are none to judge by"):
        choose_head(data(60, 1), empty)
    with pytest.raises(InputError, match="there are none to learn from"):
        choose_head(empty, data(60, 1))
    with pytest.raises(InputError, match="judge features have values that are not finite"):
        choose_head(data(60, 1), broken)
    with pytest.raises(InputError, match="96 features and the judge 50"):
        choose_head(
            data(60, 1),
            FactoryData(narrow.z[:, :50], narrow.taps, narrow.y, narrow.sample_weight, SLOTS),
        )


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_few_classes_are_judged_without_halves_and_one_class_takes_the_smallest_head(
    classes: int,
) -> None:
    choice = choose_head(data(90, 1, classes), data(60, 2, classes), heads=SMALL)
    assert (classes > 1) or (
        choice.label == choice.rows[0].label and choice.rows[0].accuracy == 1.0
    )


def test_the_choice_is_the_same_each_time() -> None:
    one, two = (choose_head(data(120, 1), data(60, 2), 40, seed=3, heads=SMALL) for _ in range(2))
    assert one == two


def test_low_dimensional_features_get_random_features_and_wide_ones_projections() -> None:
    assert any(
        isinstance(c.head, Ridge) and c.head.random_features for c in candidates(Dims(16, 0, 26))
    )
    wide = [c.head for c in candidates(Dims(1280, 0, 32))]
    assert not any(isinstance(head, Ridge) and head.random_features for head in wide)
    assert {
        head.projection.width for head in wide if isinstance(head, StreamingLDA) and head.projection
    } == {32, 64, 128, 256, 512}


def test_settings_say_what_was_tried_and_take_the_best_that_fits() -> None:
    lines: list[str] = []
    fold = np.arange(240) % 5
    head = (
        Settings(state_kib=30.0)
        .chosen_head(data(240, 1), (data(240, 1), data(120, 2)), fold, lines.append)
        .head
    )
    assert head_bytes(head, data(1, 1).dims) <= 30 * 1024
    assert (
        "within 30 KiB" in lines[0]
        and sum("<-" in line for line in lines) == 1
        and any("too large" in line for line in lines)
    )
    assert isinstance(
        Settings().chosen_head(data(240, 1), (data(240, 1), data(120, 2)), fold, lines.append).head,
        StreamingLDA,
    )


@pytest.mark.parametrize(
    "other",
    [{"head": "nearest_mean"}, {"head": NearestMean()}, {"random_features": 64}],
    ids=["named", "own", "random features"],
)
def test_a_budget_beside_a_head_that_was_named_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="state_kib = 30 chooses the head itself"):
        Settings(state_kib=30.0, **other).check(["a", "b"])


def test_a_counting_head_is_a_candidate_and_learns_whole_labels_in_the_second_half() -> None:
    head = KeyValueBottleneck(books=8, pairs=32, key_dim=8)
    choice = choose_head(data(300, 1), data(150, 2), heads=[Candidate("key-value", head)])
    assert choice.rows[0].accuracy is not None and choice.rows[0].accuracy > 2 / CLASSES
    assert {type(candidate.head) for candidate in candidates(Dims(FEATURES, 0, SLOTS))} == {
        NearestMean,
        Ridge,
        StreamingLDA,
        KeyValueBottleneck,
    }
