"""Four acts: clean images, conditions, their return, new classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo import report
from edgeadapt.demo.run import BATCH, SHOWN, Act, DemoRun, fact
from edgeadapt.demo.sample import CLASSES, KNOWN, NEW
from edgeadapt.scenarios.orders import batches

CONDITIONS = ("gaussian_noise", "brightness", "fog", "contrast")
PER_NEW_CLASS = 10


def clean(run: DemoRun) -> Act:
    mine, frozen, _ = run.play("clean", "clean", "shuffled", 20 * BATCH, 1)
    played = run.recorder.batches
    shifts = sum(b["is_shifted"] for b in played)
    return (
        "Clean",
        "Six kinds of clothes, as at the factory. It only predicts.",
        [
            fact("accuracy", f"{mine:.1%}", None),
            fact("false shift alarms", f"{shifts} of {len(played)} batches", shifts == 0),
            fact("same as frozen", f"{abs(mine - frozen):.1%} apart", mine == frozen),
            fact(
                "questions asked",
                "none" if not run.recorder.answers else str(run.recorder.answers),
                run.recorder.answers == 0,
            ),
        ],
    )


def degraded(run: DemoRun) -> Act:
    order = [CONDITIONS[i] for i in run.rng.permutation(len(CONDITIONS))]
    asked = run.recorder.answers
    most_asked = 0
    for number, condition in enumerate(order):
        oracle = run.oracle(condition)
        before = run.recorder.answers
        for kind in ("shuffled", "sorted"):
            mine, frozen, best = run.play(
                "degraded",
                condition,
                kind,
                20 * BATCH,
                10 + 2 * number + (kind == "sorted"),
                oracle,
            )  # type: ignore[arg-type]
            run.found.conditions.append(
                {
                    "name": SHOWN[condition],
                    "order": kind,
                    "frozen": frozen,
                    "learner": mine,
                    "oracle": best,
                    "clean": run.clean_accuracy(),
                }
            )  # type: ignore[typeddict-item]
            run.say(
                f"  {SHOWN[condition]}, {kind}: {mine:.1%}, frozen {frozen:.1%}, labelled"
                f" oracle {best:.1%}"
            )
        most_asked = max(most_asked, run.recorder.answers - before)
    run.found.order = order
    mine, frozen, best = (
        float(np.mean([c[key] for c in run.found.conditions]))
        for key in ("learner", "frozen", "oracle")
    )  # type: ignore[literal-required]
    opened = run.conditions_opened()
    share = (mine - frozen) / max(best - frozen, 1e-9)
    return (
        "Conditions degrade",
        (
            "Noise, brightness, fog and contrast in turn, once shuffled and once sorted by"
            " class. It notices, corrects itself and asks a few questions."
        ),
        [
            fact("accuracy", f"{frozen:.1%} frozen, {mine:.1%} learning", mine > frozen),
            fact("share of the labelled oracle's gain", f"{share:.0%}", share >= 0.5),
            fact("conditions opened", f"{opened} of {len(order)} shown", opened == len(order)),
            fact("questions, most per condition", str(most_asked), most_asked <= 20),
            fact("questions in all", str(run.recorder.answers - asked), None),
        ],
    )


def returning(run: DemoRun) -> Act:
    before = dict(run.learner.domains())
    asked = run.recorder.answers
    found = []
    for salt, condition in enumerate((run.found.order[0], run.found.order[1])):
        mine, frozen, _ = run.play("returning", condition, "shuffled", 10 * BATCH, 40 + salt, None)
        found.append(
            (SHOWN[condition], mine, frozen, run.recorder._names.get(run.learner.domain()))
        )
    run.play("returning", "clean", "shuffled", 8 * BATCH, 45)
    new = len(run.learner.domains()) - len(before)
    return (
        "A condition returns",
        (
            f"{found[0][0].capitalize()} and {found[1][0]} come back, then the sun. It finds"
            " what it learned instead of learning it again."
        ),
        [
            fact("new conditions opened", str(new), new == 0),
            fact(
                "found again",
                ", ".join(f"{name}: {domain or 'nothing'}" for name, _, _, domain in found),
                all(name == domain for name, _, _, domain in found),
            ),
            fact(
                "accuracy",
                f"{np.mean([f for _, _, f, _ in found]):.1%} frozen,"
                f" {np.mean([m for _, m, _, _ in found]):.1%} learning",
                None,
            ),
            fact(
                "back to normal at the end",
                run.learner.domain(),
                run.learner.domain() == "source",
            ),
            fact("questions asked", str(run.recorder.answers - asked), None),
        ],
    )


def new_classes(run: DemoRun) -> Act:
    old_before = run.accuracy(run.images.judge, KNOWN)
    opened = run.conditions_opened()
    asked = run.recorder.answers
    x, y = run.images.streamed(run.images.new_stream, 6 * BATCH, "shuffled", "clean", 60)
    known, known_y = run.images.streamed(run.images.stream, 6 * BATCH, "shuffled", "clean", 61)
    given: dict[int, int] = {}
    questions_before = len(run.recorder.questions)
    for number, part in enumerate(batches(len(x), BATCH)):
        half = slice(part.start, part.start + BATCH // 4)
        bx = np.concatenate([x[part], known[half]])
        by = np.concatenate([y[part], known_y[half]])
        seen = run.recorder.batch(bx, by, act="new_classes", condition="new classes")
        if number >= 1:
            _teach(run, seen.ids, by, given)
    precise = [q for q in run.recorder.questions[questions_before:] if q["answer"] in NEW]
    total = len(run.recorder.questions) - questions_before
    rows = run.images.judges()
    mix = run.rng.permutation(np.concatenate([run.images.judge[:240], run.images.new_judge[:160]]))
    for part in batches(len(mix), BATCH):
        run.recorder.batch(
            run.images.x[mix[part]],
            run.images.y[mix[part]],
            act="new_classes",
            condition="ten classes",
        )
    old_after, new_in_ten = (
        run.accuracy(run.images.judge, KNOWN),
        run.accuracy(run.images.new_judge),
    )
    everything = run.accuracy(rows)
    run.found.classes: report.Classes = {
        "old_among_old": [old_before, old_after],
        "new_in_ten": new_in_ten,
        "all": everything,
        "per_class": run.per_class(rows),
    }
    now_open = run.conditions_opened()
    return (
        "Four new classes appear",
        (
            "Shirts, sneakers, bags and boots, which it never saw. It says it does not know,"
            " asks, and learns each from ten labels."
        ),
        [
            fact(
                "questions about new classes",
                f"{len(precise)} of {total}",
                total > 0 and len(precise) / max(total, 1) >= 0.6,
            ),
            fact(
                "old classes, among the old",
                f"{old_before:.1%} before, {old_after:.1%} after",
                old_after >= 0.9,
            ),
            fact(
                "old classes, among all ten",
                f"{run.accuracy(run.images.judge):.1%}",
                None,
            ),
            fact("new classes, among all ten", f"{new_in_ten:.1%}", new_in_ten >= 0.7),
            fact("mistaken for a new condition", f"{now_open - opened} times", now_open == opened),
            fact("labels", f"{sum(given.values()) + run.recorder.answers - asked}", None),
        ],
    )


def _teach(run: DemoRun, ids: tuple[str, ...], y: NDArray[np.int64], given: dict[int, int]) -> None:
    """Ten labels for each new class, answers to questions counted."""
    answered = {CLASSES.index(n): 0 for n in NEW}
    for question in run.recorder.questions:
        if question["answer"] in NEW:
            answered[CLASSES.index(question["answer"])] += 1
    picked = []
    for sample, slot in zip(ids, y, strict=True):
        if (
            slot >= len(KNOWN)
            and answered[int(slot)] + given.get(int(slot), 0) < PER_NEW_CLASS
            and run.learner.is_pending(sample)
        ):
            picked.append(sample)
            given[int(slot)] = given.get(int(slot), 0) + 1
    names = [run.recorder.truth[sample] for sample in picked]
    for name in dict.fromkeys(names):
        if name not in run.learner.classes:
            run.learner.add_class(name)
            run.recorder.event("class_added", f"{name}: a class it had never heard of")
    if picked:
        run.learner.label(picked, names, source="operator")
        run.learner.settle()
