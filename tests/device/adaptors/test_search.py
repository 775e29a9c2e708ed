"""Candidates are ranked without training: exact leave-one-out, scores that mean what they say, and
a base that can win.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.device.adaptors.scores import SCORES, Candidate, naswot, ridge, spectral
from edgeadapt.device.adaptors.search import choose
from edgeadapt.errors import InputError

NONE = -1e9


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def problem(
    seed: int, count: int, width: int, classes: int = 3, slots: int = 5, signal: float = 1.0
):
    """Probe features that tell the class as far as ``signal``; logits that do not."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    probe = rng.standard_normal((count, width))
    probe[:, :classes] += signal * 3.0 * np.eye(classes)[y][:, : min(width, classes)]
    logits = 0.1 * rng.standard_normal((count, slots))
    logits[:, classes:] = NONE
    return probe, logits, y


def by_hand(
    probe: np.ndarray, logits: np.ndarray, y: np.ndarray, penalty: float
) -> tuple[float, float]:
    """N fits, each without one sample: ridge with an intercept that is not penalised, lambda fixed
    as of all samples.
    """
    classes = logits[0] > -1e8
    shares = softmax(logits)[:, classes]
    target = np.eye(logits.shape[1])[y][:, classes]
    centred = probe - probe.mean(axis=0)
    values = np.linalg.eigvalsh(centred @ centred.T)
    values = values[values > 1e-10 * values.max()]
    lam = penalty * values.sum() / len(values)
    right, loss = 0, 0.0
    for n in range(len(y)):
        rest = np.arange(len(y)) != n
        mean, wrong = probe[rest].mean(axis=0), (target - shares)[rest]
        f = probe[rest] - mean
        b = np.linalg.solve(f.T @ f + lam * np.eye(f.shape[1]), f.T @ (wrong - wrong.mean(axis=0)))
        said = shares[n] + wrong.mean(axis=0) + (probe[n] - mean) @ b
        right += int(said.argmax() == target[n].argmax())
        loss += float(((said - target[n]) ** 2).sum())
    return right / len(y), loss / len(y)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999), width=st.sampled_from([4, 9, 40]))
def test_the_closed_form_is_what_leaving_each_sample_out_gives(seed: int, width: int) -> None:
    probe, logits, y = problem(seed, 18, width)
    found = ridge(probe, logits, y)
    accuracy, loss = by_hand(probe, logits, y, found.penalty)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.accuracy == pytest.approx(accuracy)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_a_tied_correction_is_left_out_sample_by_sample_with_all_its_classes(seed: int) -> None:
    probe, logits, y = problem(seed, 14, 6)
    weights = np.random.default_rng(seed).standard_normal((6, 5))
    found = ridge(probe, logits, y, read_out=weights)
    w, shares = weights[:, :3], softmax(logits)[:, :3]
    wrong = np.eye(3)[y] - shares
    design = (probe - probe.mean(axis=0))[:, None, :] * w.T[None]  # (N, K, P)
    values = np.linalg.eigvalsh(design.reshape(-1, 6).T @ design.reshape(-1, 6))
    lam, loss = found.penalty * values.mean(), 0.0
    for n in range(14):
        rest = np.arange(14) != n
        x = probe[rest][:, None, :] * w.T[None]
        x, mean, r = x - x.mean(axis=0), x.mean(axis=0), wrong[rest]
        flat = x.reshape(-1, 6)
        b = np.linalg.solve(flat.T @ flat + lam * np.eye(6), flat.T @ (r - r.mean(axis=0)).ravel())
        said = shares[n] + r.mean(axis=0) + (probe[n][None] * w.T - mean) @ b
        loss += float(((said - np.eye(3)[y[n]]) ** 2).sum()) / 14
    assert found.loss == pytest.approx(loss, rel=1e-4)


def test_one_number_per_column_wins_less_than_a_read_out_of_its_own() -> None:
    probe, logits, y = problem(8, 120, 40)
    free = ridge(probe, logits, y)
    tied = ridge(probe, logits, y, read_out=np.random.default_rng(0).standard_normal((40, 5)))
    assert free.gain > 2 * tied.gain
    wide = np.random.default_rng(1).standard_normal((120, 500))
    assert np.isfinite(ridge(wide, logits, y, read_out=np.ones((500, 5))).loss)
    with pytest.raises(InputError, match="a row for each of 40 probe columns"):
        ridge(probe, logits, y, read_out=np.ones((39, 5)))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999),
    factor=st.sampled_from([1e-3, 7.0, 1e4]),
    width=st.sampled_from([5, 50]),
)
def test_scores_know_no_units_and_no_order(seed: int, factor: float, width: int) -> None:
    probe, logits, y = problem(seed, 24, width)
    order = np.random.default_rng(seed).permutation(24)
    for one, other in (
        (ridge(probe, logits, y).loss, ridge(factor * probe[order], logits[order], y[order]).loss),
        (spectral(probe, y), spectral(factor * probe[order], y[order])),
        (naswot(probe), naswot(factor * probe[order])),
    ):
        assert one == pytest.approx(other, rel=1e-6)


def test_features_that_tell_the_classes_beat_those_that_do_not() -> None:
    blind, logits, y = problem(1, 120, 16, signal=0.0)
    telling, _, _ = problem(1, 120, 16, signal=1.0)
    assert ridge(telling, logits, y).accuracy > 0.9 > 0.5 > ridge(blind, logits, y).accuracy
    assert spectral(telling, y) > 2 * spectral(blind, y)
    ranking = choose([Candidate("blind", blind, 10), Candidate("telling", telling, 10)], logits, y)
    assert ranking[0].name == "telling" and ranking[0].gain > 0.4 and ranking[-1].gain < 0.1


def test_spectral_is_the_effective_rank_times_the_ratio_of_scatters() -> None:
    y = np.array([0, 0, 1, 1])
    # eigenvalues 36 and 4; between 36, within 4
    probe = np.array([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
    share = np.array([0.9, 0.1])
    assert spectral(probe, y) == pytest.approx(np.exp(-(share * np.log(share)).sum()) * 9.0)


def test_naswot_is_larger_for_codes_that_differ() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.standard_normal((1, 32)), 20, axis=0)
    assert naswot(rng.standard_normal((20, 32))) > naswot(same + 1e-9) + 100


def test_the_base_wins_unless_the_gain_reaches_the_margin() -> None:
    probe, logits, y = problem(2, 60, 8, signal=0.3)
    gain = choose([Candidate("only", probe, 1)], logits, y, margin=-1.0)[0].gain
    assert 0.02 < gain < 0.9
    assert choose([Candidate("only", probe, 1)], logits, y, margin=gain + 0.01)[0].name == ""
    assert choose([Candidate("only", probe, 1)], logits, y, margin=gain - 0.01)[0].name == "only"
    sure = 20.0 * np.eye(5)[y]
    assert choose([Candidate("only", probe, 1)], sure, y)[0].name == "", (
        "nothing can be won over a base that is always right"
    )


@pytest.mark.parametrize("score", list(SCORES))
def test_what_is_over_budget_is_named_and_never_picked(score: str) -> None:
    probe, logits, y = problem(3, 60, 12)
    candidates = [
        Candidate("large", probe, 5000, 0.1),
        Candidate("slow", probe, 10, 9.0),
        Candidate("fitting", probe[:, :6], 10, 0.1),
    ]
    ranking = choose(candidates, logits, y, budget_bytes=1000, latency_ms=1.0, score=score)
    assert [r.name for r in ranking[:2]] == ["fitting", ""] and {r.name for r in ranking[2:]} == {
        "large",
        "slow",
    }
    reasons = {r.name: r.reason for r in ranking}
    assert "5,000 bytes, the budget is 1,000" in reasons["large"] and "9 ms" in reasons["slow"]
    assert not any(r.fits for r in ranking[2:])


def test_of_equal_scores_the_smaller_is_picked() -> None:
    probe, logits, y = problem(4, 60, 6)
    assert (
        choose(
            [Candidate("b", probe, 20), Candidate("a", probe, 30), Candidate("c", probe, 10)],
            logits,
            y,
        )[0].name
        == "c"
    )


def test_labels_of_one_class_are_an_argument_for_no_adaptor() -> None:
    probe, logits, _ = problem(5, 30, 6)
    ranking = choose([Candidate("eager", probe, 1)], logits, np.zeros(30, np.int64))
    assert ranking[0].name == "" and "one class" in ranking[1].reason
    assert spectral(probe, np.zeros(30, np.int64)) == 0.0


def test_a_repeated_sample_does_not_answer_for_its_twin() -> None:
    # more columns than samples: a twin would be remembered
    probe, logits, y = problem(6, 40, 80, signal=0.0)
    twice = ridge(np.tile(probe, (2, 1)), np.tile(logits, (2, 1)), np.tile(y, 2))
    assert twice == ridge(probe, logits, y) and twice.samples == 40


@pytest.mark.parametrize("score", list(SCORES))
def test_features_without_variance_and_contradicting_labels_give_finite_scores(score: str) -> None:
    _, logits, y = problem(7, 20, 6)
    flat = Candidate("flat", np.ones((20, 6)), 1)
    contradicting = Candidate(
        "contradicting", np.repeat(np.random.default_rng(0).standard_normal((10, 6)), 2, axis=0), 1
    )
    for candidate in (flat, contradicting):
        ranking = choose([candidate], np.repeat(logits[::2], 2, axis=0), y, score=score)
        assert all(np.isfinite(r.score) for r in ranking)
        assert {r.name for r in ranking} == {"", candidate.name}


def test_all_samples_equal_leave_the_base() -> None:
    ranking = choose([Candidate("any", np.ones((9, 4)), 1)], np.zeros((9, 3)), np.ones(9, np.int64))
    assert ranking[0].name == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": np.ones((1, 4))}, "at least two samples"),
        ({"probe": np.ones(8)}, r"\(N, P\)"),
        ({"probe": np.full((8, 4), np.nan)}, "finite"),
        ({"probe": np.ones((7, 4))}, "7 probe features and 8 logits"),
        ({"logits": np.full((8, 3), np.inf)}, "finite"),
        ({"logits": np.zeros((7, 3))}, "with a label each"),
        ({"y": np.arange(8)}, "slots 0 to 2, got 0 to 7"),
        ({"y": np.zeros(8, np.int64) - 1}, "got -1"),
        ({"scale": 0.0}, "positive"),
        ({"score": "zen"}, "no score called 'zen'; scores: ridge"),
        ({"names": ("same", "same")}, "distinct names"),
        ({"names": ("",)}, "distinct names"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_the_reason(change: dict, message: str) -> None:
    given = {
        "probe": np.ones((8, 4)),
        "logits": np.zeros((8, 3)),
        "y": np.arange(8) % 3,
        "names": ("a",),
        "scale": 1.0,
        "score": "ridge",
    } | change
    candidates = [Candidate(name, given["probe"], 1) for name in given["names"]]
    with pytest.raises(InputError, match=message):
        choose(candidates, given["logits"], given["y"], score=given["score"], scale=given["scale"])


def test_nine_candidates_at_full_width_take_less_than_two_seconds() -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.standard_normal((256, 16)), rng.integers(0, 10, 256)
    widths = (1280, 4, 8, 8, 16, 16, 32, 32, 64)
    candidates = [
        Candidate(f"c{i}", rng.standard_normal((256, width)), width)
        for i, width in enumerate(widths)
    ]
    candidates[0] = replace(candidates[0], read_out=rng.standard_normal((1280, 16)))
    started = time.thread_time()
    assert len(choose(candidates, logits, y)) == 10
    assert time.thread_time() - started < 2.0
