"""A bundle whose method gives each condition a feature space of its own: labels are learned from
the factory encoder's features, or refused by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from learner_steps import Opener, watch
from sample_images import CLASSES, images

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.querying import pending as evidence
from edgeadapt.device.storage.features import as_stored
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.errors import InputError
from edgeadapt.testing import inspect_state


@pytest.fixture(scope="session")
def foreign() -> Bundle:
    """The shipped bundle, but its method says that it does not preserve the space."""
    bundle = read_bundle(bundle_path())
    policy = bundle.manifest.policy
    adapt = msgspec.structs.replace(policy.adapt, mode="act", preserves_space=False)
    return replace(
        bundle,
        manifest=msgspec.structs.replace(
            bundle.manifest, policy=msgspec.structs.replace(policy, adapt=adapt)
        ),
    )


def adapted(
    opened: Opener, bundle: Any, **settings: Any
) -> tuple[Learner, tuple[str, ...], Any, list[str]]:
    """A learner whose stream is in a condition with an encoder of its own, and the ids, frames and
    names of what that encoder saw last.
    """
    learner = opened(bundle=bundle, **settings)
    x, names = images(640, condition="fog")
    watch(learner, x[:-32], stream="cam")
    assert inspect_state(learner).state.encoder_in(learner.domain("cam")) is not None
    return learner, learner.observe(x[-32:], stream="cam").ids, x[-32:], names[-32:]


def rows(learner: Learner) -> dict[str, EvidenceRow]:
    return {row.id: row for row in inspect_state(learner).journal.evidence()}


def test_a_space_that_is_preserved_keeps_what_the_adapted_encoder_saw(
    opened: Opener, bundle: Bundle
) -> None:
    learner, ids, x, names = adapted(opened, bundle)
    own = np.stack(
        [batch.features[row] for batch, row in map(inspect_state(learner).pending.find, ids)]
    )  # type: ignore[misc]
    learner.label(ids, names)
    learner.settle()
    factory = as_stored(*inspect_state(learner).program.encode(x))
    kept = np.stack([rows(learner)[i].features for i in ids])
    assert np.array_equal(kept, own) and not np.allclose(kept, factory, atol=0.01)
    assert {row.met for row in rows(learner).values()} == {"adapted"}


def test_a_label_is_learned_from_the_features_of_the_factory_encoder(
    opened: Opener, foreign: Bundle
) -> None:
    learner, ids, x, names = adapted(opened, foreign)
    learner.label(ids, names)
    learner.settle()
    kept = rows(learner)
    assert np.array_equal(
        np.stack([kept[i].features for i in ids]),
        as_stored(*inspect_state(learner).program.encode(x)),
    )
    assert {(row.met, row.space) for row in kept.values()} == {("shifted", foreign.manifest.space)}
    assert {row.status for row in kept.values()} <= {"learned", "held_out"}
    assert len(inspect_state(learner).pending._raw) > 0 and not any(
        i in inspect_state(learner).pending._raw for i in ids
    ), "an input goes with its sample"
    learner.label(ids[0], names[1])  # a correction finds the same features
    learner.settle()
    corrected = [
        row.features
        for row in inspect_state(learner).journal.evidence()
        if (row.id, row.label) == (ids[0], names[1])
    ]
    assert corrected and np.array_equal(corrected[-1], kept[ids[0]].features)


def test_a_question_is_answered_in_the_space_of_the_factory(
    opened: Opener, foreign: Bundle
) -> None:
    learner, *_ = adapted(opened, foreign, policy=Policy(questions_per_day=100))
    questions = learner.questions(100)
    assert len(questions) >= 10
    learner.label([q.id for q in questions], [CLASSES[0]] * len(questions))
    learner.settle()
    expected = as_stored(
        *inspect_state(learner).program.encode(np.stack([q.frame for q in questions]))
    )
    assert np.allclose(
        np.stack([rows(learner)[q.id].features for q in questions]), expected, atol=0.01
    )


def test_labelled_data_in_hand_goes_through_the_factory_encoder(
    opened: Opener, foreign: Bundle
) -> None:
    learner, _, x, names = adapted(opened, foreign)
    ids = learner.learn(x, names, stream="cam")
    learner.settle()
    assert np.array_equal(
        np.stack([rows(learner)[i].features for i in ids]),
        as_stored(*inspect_state(learner).program.encode(x)),
    )


def test_a_sample_whose_input_is_gone_is_refused_by_name_and_nothing_is_lost(
    opened: Opener, foreign: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "_RAW_BYTES", 40 * 784)
    learner, ids, x, names = adapted(opened, foreign)
    old = next(iter(inspect_state(learner).pending._where))
    gone = [
        i
        for i, (batch, _, _) in inspect_state(learner).pending._where.items()
        if batch.is_foreign and inspect_state(learner).pending.input_of(i) is None
    ]
    assert gone and old not in gone, "the first samples were met by the factory encoder"
    with pytest.raises(
        InputError,
        match=(
            rf"sample '{gone[0]}' was met in .* its input is no longer kept .* learner.learn\(x,"
            r" label\)"
        ),
    ):
        learner.label([ids[0], gone[0]], names[:2])
    assert rows(learner) == {} and learner.is_pending(ids[0]) and learner.is_pending(gone[0])
    learner.label([ids[0], old], names[:2])
    learner.learn(x[1:2], names[1:2], stream="cam")
    learner.settle()
    assert len(rows(learner)) == 3


def test_inputs_are_kept_in_memory_only_where_a_label_will_need_them(
    opened: Opener, foreign: Bundle, bundle: Bundle
) -> None:
    assert len(inspect_state(adapted(opened, bundle)[0]).pending._raw) == 0
    learner, ids, _, _ = adapted(opened, foreign)
    kept = set(inspect_state(learner).pending._raw)
    assert (
        set(ids) <= kept
        and {
            i
            for i, (batch, _, _) in inspect_state(learner).pending._where.items()
            if batch.is_foreign
        }
        <= kept
        and len(kept) < len(inspect_state(learner).pending._where)
    )
    assert (
        inspect_state(learner).journal.evidence() == []
        and inspect_state(learner).journal.nbytes < 1 << 20
    )
