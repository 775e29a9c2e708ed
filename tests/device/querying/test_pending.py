"""Samples that wait for a label: what they are learned from, and the ids they are known by."""

from __future__ import annotations

import gc
import re
import threading
import weakref

import numpy as np
import pytest
from learner_steps import Opener
from sample_images import images

from edgeadapt.bundle import Bundle
from edgeadapt.device.querying.pending import Ids, Pending, PendingBatch
from edgeadapt.device.storage.features import as_stored
from edgeadapt.testing import inspect_state

RNG = np.random.default_rng(0)


def seen(number: int, samples: int = 1) -> PendingBatch:
    """A batch as an encoder has just made it; some of its numbers are too large for float16."""
    z, taps = (
        RNG.normal(0.0, 10.0 ** (number % 6), (samples, width)).astype(np.float32)
        for width in (6, 3)
    )
    return PendingBatch(
        tuple(f"{number}-{row}" for row in range(samples)),
        "cam",
        "source",
        False,
        z,
        float(number),
        taps=taps,
    )


def wait_unstored(pending: Pending) -> int:
    return sum(len(batch.ids) for batch in pending._batches.values() if batch.taps is not None)


@pytest.mark.parametrize("samples", [1, 3, 40])
def test_whenever_they_are_stored_the_features_are_those_that_were_observed(samples: int) -> None:
    pending, wanted = Pending(3600.0), {}
    for number in range(100):
        batch = seen(number, samples)
        assert batch.taps is not None
        wanted |= dict(zip(batch.ids, as_stored(batch.features, batch.taps), strict=True))
        pending.add(batch)
        assert wait_unstored(pending) < 32
        if number % 7 == 0:  # the newest, at once
            found, row = pending.find(batch.ids[-1]) or pytest.fail("it was just added")
            assert found.features.dtype == np.float16 and np.array_equal(
                found.features[row], wanted[batch.ids[-1]]
            )
    for sample, features in wanted.items():
        found, row = pending.find(sample) or pytest.fail(f"{sample} was added")
        assert (
            found.features.dtype == np.float16
            and found.features[row].tobytes() == features.tobytes()
        )


def test_nothing_keeps_what_is_let_go_before_it_was_stored() -> None:
    pending, batch = Pending(3600.0), seen(0)
    features, gone = weakref.ref(batch.features), batch.ids
    pending.add(batch)
    assert pending.drop(gone) == 1
    del batch
    gc.collect()
    assert features() is None and not pending._unstored


def test_who_overwrites_the_frame_or_the_features_it_gave_changes_nothing(
    opened: Opener, bundle: Bundle
) -> None:
    learner, (x, _) = opened(bundle=bundle), images(2)
    z, taps = inspect_state(learner).program.encode(x)
    wanted = as_stored(z, taps)
    frame = x[:1].copy()
    ids = [learner.observe(frame).ids[0]]
    frame[:] = 0
    given = {"z": z[1:].copy(), "taps": taps[1:].copy()} if taps.shape[1] else {"z": z[1:].copy()}
    ids += learner.observe(features=given).ids
    for array in given.values():
        array[:] = 0.0
    for sample, features in zip(ids, wanted, strict=True):
        found, row = inspect_state(learner).pending.find(sample) or pytest.fail(
            "it was just observed"
        )
        np.testing.assert_allclose(found.features[row], features, rtol=1e-3)


def test_ids_are_sixteen_digits_and_no_two_callers_get_the_same() -> None:
    ids, taken = Ids(), list[str]()

    def take() -> None:
        for count in (1, 3, 300, 0, 700, 2) * 20:
            got = ids.take(count)
            assert len(got) == count
            taken.extend(got)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 4 * 20 * 1006
    assert all(re.fullmatch("[0-9a-f]{16}", sample) for sample in taken)
