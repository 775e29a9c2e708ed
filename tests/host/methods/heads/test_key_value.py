"""The key-value bottleneck counts whole samples: in any order, merged by adding, forgotten exactly,
and read only where something was counted.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt import host
from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.numerics.linalg import NUMERICS
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import FactoryData, GivesReceipts, Head, with_derived
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck, stored_bytes
from edgeadapt.host.methods.heads.projection import HadamardProjection, PrincipalProjection
from edgeadapt.testing import check_identity_stub, inspect_state

WIDTH, SLOTS, BOOKS = 12, 5, 6
CENTRES = 3.0 * np.linalg.qr(np.random.default_rng(11).standard_normal((WIDTH, WIDTH)))[0][:SLOTS]
State = dict[str, torch.Tensor]
HEAD = KeyValueBottleneck(books=BOOKS, pairs=16, key_dim=8, epochs=2, whitening="scale")
VARIANTS = {
    "signs": HEAD,
    "random heads, one read": KeyValueBottleneck(
        books=BOOKS,
        pairs=16,
        key_dim=4,
        epochs=2,
        split="random",
        reads=1,
        whitening="none",
        start="normal",
    ),
    "parts of the features": KeyValueBottleneck(
        books=4,
        pairs=16,
        key_dim=0,
        epochs=1,
        split="chunk",
        whitening="scale",
        informative=1.0,
        start="rows",
    ),
    "projected, within classes": KeyValueBottleneck(
        books=4,
        pairs=16,
        key_dim=2,
        epochs=1,
        projection=PrincipalProjection(6),
        whitening="within",
        compact=True,
    ),
    "transformed": KeyValueBottleneck(
        books=6,
        pairs=16,
        key_dim=4,
        epochs=1,
        projection=HadamardProjection(10),
        whitening="scale",
        reads=16,
    ),
}


def samples(count: int, seed: int, classes: tuple[int, ...] = (0, 1, 2)) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, count)
    return (CENTRES[y] + 0.8 * rng.standard_normal((count, WIDTH))).astype(np.float32), y.astype(
        np.int64
    )


def factory_data(z: Any, y: Any) -> FactoryData:
    return FactoryData(
        z, np.zeros((len(z), 0), np.float32), y, np.full(len(z), 0.25, np.float32), SLOTS
    )


@cache
def made(variant: str) -> tuple[KeyValueBottleneck, State]:
    """A head with its frozen tensors and no evidence."""
    head = VARIANTS[variant]
    values = head.factory(factory_data(*samples(120, 0)))
    kinds = {spec.name: spec.kind for spec in head.tensors(factory_data(*samples(1, 0)).dims)}
    state = {name: torch.from_numpy(value) for name, value in values.items()}
    return head, {
        name: torch.zeros_like(value) if kinds[name] == "evidence" else value
        for name, value in state.items()
    }


def learn(head: KeyValueBottleneck, t: State, z: Any, y: Any, weight: Any = None) -> State:
    w = torch.ones(len(y)) if weight is None else torch.as_tensor(weight, dtype=torch.float32)
    return {
        **t,
        **head.learn(t, torch.from_numpy(z), torch.zeros(len(y), 0), torch.from_numpy(y), w),
    }


def derive(head: KeyValueBottleneck, t: State) -> State:
    return with_derived(t, head.numerics())


def accuracy(head: KeyValueBottleneck, t: State, z: Any, y: Any) -> float:
    return float(
        (head.predict(derive(head, t), torch.from_numpy(z)).argmax(dim=1).numpy() == y).mean()
    )


def counts(t: State) -> torch.Tensor:
    return t["counts.labels"]


def test_the_head_keeps_the_promises_of_a_head_and_its_stubs_do_not() -> None:
    assert isinstance(HEAD, Head) and isinstance(HEAD, GivesReceipts)
    found = check_identity_stub(
        KeyValueBottleneck(books=24, pairs=16, key_dim=16, epochs=2, whitening="scale")
    )
    assert set(found) == {
        "learn changes nothing",
        "learn ignores sample_weight",
        "learn decays what was learned before",
        "predict is constant",
        "predict returns its input",
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_from_counts_alone(variant: str) -> None:
    head, t = made(variant)
    assert accuracy(head, learn(head, t, *samples(300, 1)), *samples(200, 2)) > 0.9
    grown = learn(head, learn(head, t, *samples(300, 1)), *samples(30, 3, (3,)))
    assert (
        accuracy(head, grown, *samples(60, 4, (3,))) > 0.7
        and accuracy(head, grown, *samples(200, 2)) > 0.8
    )


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 30))
def test_any_order_of_the_stream_gives_the_same_counts_and_keys_never_move(
    variant: str, seed: int, count: int
) -> None:
    head, t = made(variant)
    z, y = samples(count, seed, (0, 1, 2, 3))
    order = np.random.default_rng(seed).permutation(count)
    one = learn(head, t, z, y)
    other = t
    for row in order:
        other = learn(head, other, z[row : row + 1], y[row : row + 1])
    assert torch.equal(counts(one), counts(other))
    assert all(
        torch.equal(one[name], t[name])
        for name in t
        if name not in ("counts.labels", "mean.moment")
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), first=st.integers(0, 20), second=st.integers(1, 20))
def test_forgetting_restores_the_counts_bit_for_bit_and_two_bottlenecks_merge_by_adding(
    seed: int, first: int, second: int
) -> None:
    head, t = made("signs")
    a, b = samples(first, seed), samples(second, seed + 1)
    before, alone = learn(head, t, *a), learn(head, t, *b)
    after = learn(head, before, *b)
    assert torch.equal(counts(before) + counts(alone), counts(after))
    assert torch.equal(counts(learn(head, after, *b, -np.ones(second))), counts(before))
    receipt = head.receipt(after, torch.from_numpy(b[0]))
    assert receipt.dtype == torch.uint8 and tuple(receipt.shape) == (second, BOOKS)
    redeemed = head.redeem(after, receipt, torch.from_numpy(b[1]), -torch.ones(second))
    assert torch.equal(redeemed["counts.labels"], counts(before))


def test_one_label_changes_one_number_in_each_book() -> None:
    head, t = made("signs")
    z, y = samples(1, 5)
    changed = torch.nonzero(counts(learn(head, t, z, y)))
    assert changed[:, 0].tolist() == list(range(BOOKS)) and set(changed[:, 2].tolist()) == {
        int(y[0])
    }


def test_fractions_of_labels_are_rounded_one_by_one_so_that_batches_add_up() -> None:
    head, t = made("signs")
    z, y = samples(3, 6, (1,))
    z = np.repeat(z[:1], 3, axis=0)
    together = counts(learn(head, t, z, y, [0.4, 0.4, 0.4]))
    assert (
        not together.any() and int(counts(learn(head, t, z, y, [1.4, 0.6, 2.0])).sum()) == 4 * BOOKS
    )


def test_the_same_key_wins_whatever_the_batch() -> None:
    head, t = made("signs")
    z, _ = samples(64, 7)
    one_by_one = torch.cat([head.receipt(t, torch.from_numpy(row[None])) for row in z])
    assert torch.equal(one_by_one, head.receipt(t, torch.from_numpy(z)))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16), count=st.integers(1, 4), variant=st.sampled_from(sorted(VARIANTS))
)
def test_a_prediction_reads_no_key_that_no_label_ever_met(
    seed: int, count: int, variant: str
) -> None:
    head, t = made(variant)
    t = derive(head, learn(head, t, *samples(count, seed)))
    z = torch.from_numpy(samples(20, seed + 1, (0, 3, 4))[0])
    unused = t["values.used"] == 0
    assert bool(unused.any())
    poisoned = {
        **t,
        "values.log": torch.where(
            unused[:, :, None], torch.tensor(127, dtype=torch.int8), t["values.log"]
        ),
    }
    assert torch.equal(head.predict(t, z), head.predict(poisoned, z))


def test_a_new_class_leaves_the_logits_of_the_others_alone_where_it_brings_no_key_into_use() -> (
    None
):
    head, t = made("signs")
    z, y = samples(200, 8)
    old = derive(head, learn(head, t, z, y))
    new = derive(head, learn(head, learn(head, t, z, y), z[:5], np.full(5, 3)))
    assert torch.equal(old["values.used"], new["values.used"])
    assert torch.equal(old["values.log"][:, :, :3], new["values.log"][:, :, :3])
    query = torch.from_numpy(samples(50, 9)[0])
    torch.testing.assert_close(
        head.predict(old, query)[:, :3], head.predict(new, query)[:, :3], rtol=0, atol=0
    )


def test_without_any_label_no_class_is_active_and_logits_are_finite() -> None:
    head, t = made("signs")
    t = derive(head, t)
    assert not t["head.active"].any() and bool(
        head.predict(t, torch.from_numpy(samples(4, 1)[0])).isfinite().all()
    )


@pytest.mark.parametrize(
    ("z", "y"),
    [
        (samples(40, 1, (2,))[0], np.full(40, 2)),
        (samples(1, 1)[0], np.zeros(1, np.int64)),
        (np.repeat(samples(1, 2)[0], 30, axis=0), np.zeros(30, np.int64)),
        (
            np.where(np.arange(WIDTH) < 6, 1.0, samples(50, 3)[0]).astype(np.float32),
            samples(50, 3)[1],
        ),
        (np.zeros((20, WIDTH), np.float32), np.arange(20) % 3),
    ],
    ids=["one class", "one sample", "duplicates", "columns of zero variance", "nothing but zeros"],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_poor_factory_still_makes_a_head_that_answers(z: Any, y: Any, variant: str) -> None:
    head = VARIANTS[variant]
    values = head.factory(factory_data(z, y))
    assert all(np.isfinite(value).all() for value in values.values())
    t = derive(head, {name: torch.from_numpy(value) for name, value in values.items()})
    logits = head.predict(t, torch.from_numpy(z))
    assert bool(logits.isfinite().all()) and set(logits.argmax(dim=1).tolist()) <= set(y.tolist())


def test_contradicting_labels_end_in_even_logits() -> None:
    head, t = made("signs")
    z, _ = samples(40, 1)
    t = derive(
        head, learn(head, learn(head, t, z, np.zeros(40, np.int64)), z, np.ones(40, np.int64))
    )
    logits = head.predict(t, torch.from_numpy(z))
    torch.testing.assert_close(logits[:, 0], logits[:, 1], rtol=0, atol=1e-6)


def test_what_cannot_be_is_refused_by_name() -> None:
    for wrong, word in (
        ({"pairs": 257}, "pairs"),
        ({"books": 0}, "books"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"split": "even"}, "split"),
        ({"reads": 99, "pairs": 8}, "reads"),
        ({"softness": float("nan")}, "softness"),
        ({"informative": -1.0}, "informative"),
        ({"key_dim": 0}, "key_dim"),
        ({"compact": True}, "projection"),
    ):
        with pytest.raises(InputError, match=word):
            KeyValueBottleneck(**wrong)
    z, y = samples(5, 1)
    with pytest.raises(InputError, match="finite"):
        HEAD.factory(factory_data(np.full_like(z, np.nan), y))
    with pytest.raises(InputError, match="at least one"):
        HEAD.factory(factory_data(z[:0], y[:0]))
    with pytest.raises(InputError, match="chunk"):
        KeyValueBottleneck(books=5, key_dim=4, split="chunk").factory(factory_data(z, y))


def test_log_frequency_gives_likelihoods_that_sum_to_one_and_weighs_telling_books_more() -> None:
    log_frequency = NUMERICS["log_frequency"]
    found = np.zeros((2, 4, 3), np.int32)
    found[0, :2, 0], found[0, 2:, 1] = 50, 50
    found[1, :, :2] = 25
    values, used, active = log_frequency(found)
    np.testing.assert_allclose(
        np.exp(0.1 * values.astype(float)[:, :, :2]).sum(axis=1), 1.0, atol=0.06
    )
    assert used.all() and active.tolist() == [1, 1, 0] and not values[:, :, 2].any()
    weighted = log_frequency(found, informative=1.0)[0]
    assert (weighted[0] == values[0]).all() and not weighted[1].any()
    assert (
        log_frequency(found[:, :, :1], informative=1.0)[0] == log_frequency(found[:, :, :1])[0]
    ).all()
    assert not log_frequency(-found)[2].any()


def test_bytes_are_those_of_the_arrays() -> None:
    values = HEAD.factory(factory_data(*samples(60, 1)))
    sizes = stored_bytes(HEAD.tensors(factory_data(*samples(1, 0)).dims))
    assert sizes["frozen"] + sizes["evidence"] == sum(value.nbytes for value in values.values())


def test_a_device_forgets_by_receipt_after_the_features_are_gone(tmp_path: Path) -> None:
    z, y = samples(400, 20)
    head = KeyValueBottleneck(
        books=6, pairs=16, key_dim=0, epochs=2, split="chunk", whitening="none", reads=1
    )
    bundle = host.export(
        tmp_path / "counting.edge",
        host.Identity(WIDTH),
        calibration=(z, y),
        classes=("a", "b", "c"),
        class_slots=SLOTS,
        guard_per_class=15,
        head=head,
        novelty="cosine",
        adapt="none",
        name="counting",
    )
    with (
        open_learner(bundle, keep=Keep(features_days=0.0)) as learner,
        open_learner(bundle) as never,
    ):
        kept, gone = samples(40, 21), samples(20, 22)
        names = np.array(["a", "b", "c"])
        for device, parts in (
            (learner, ((gone, "gone"), (kept, "kept"))),
            (never, ((kept, "kept"),)),
        ):
            for (x, labels), source in parts:
                device.learn(x, list(names[labels]), source=source)
                device.settle()
            device.checkpoint()
        assert {len(row.receipt) for row in inspect_state(learner).journal.evidence()} == {6}
        receipt = learner.forget(source="gone")
        assert receipt.removed == 20 and "counts.labels" in receipt.exact
        read = [
            inspect_state(device).program.runtime.download(
                inspect_state(device).state.tensors, ["counts.labels"]
            )["counts.labels"]
            for device in (learner, never)
        ]
        np.testing.assert_array_equal(read[0], read[1])
        answers = never.predict(samples(90, 23)[0]).labels
        assert (
            np.mean([a == b for a, b in zip(answers, names[samples(90, 23)[1]], strict=True)]) > 0.9
        )
