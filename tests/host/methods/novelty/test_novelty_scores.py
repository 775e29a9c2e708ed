"""Novelty scores: what each promises, what the logits alone cannot, and how the exporter chooses
under a limit.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from edgeadapt_bench.novelty.logit_scores import Energy, MaxLogit, MaxSoftmax

from edgeadapt.errors import InputError
from edgeadapt.host.assembly.calibration import Fitted, Part, factory_weights, novelty_policy
from edgeadapt.host.assembly.novelty_choice import auroc, choose_novelty, score_bytes
from edgeadapt.host.compile import compile_graph
from edgeadapt.host.contracts import Dims, FactoryData, Scores
from edgeadapt.host.exporting.settings import NOVELTY
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.novelty.cosine import Cosine
from edgeadapt.host.methods.novelty.hypervector import Hypervector
from edgeadapt.host.methods.novelty.nearest_neighbours import NearestNeighbours
from edgeadapt.host.methods.novelty.relative_mahalanobis import RelativeMahalanobis
from edgeadapt.host.methods.novelty.relative_residual import RelativeResidual
from edgeadapt.host.methods.novelty.virtual_logit import VirtualLogit
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.testing import check_identity_stub, check_method

LEARN = {
    "learn changes nothing",
    "learn ignores sample_weight",
    "learn decays what was learned before",
}
STUBS = {"novelty is constant", "novelty is the norm of its input", "novelty has the wrong sign"}


def drawn(
    classes: int, per_class: int, features: int = 40, seed: int = 0, centres_seed: int = 5
) -> FactoryData:
    """Classes that share a covariance with a few strong directions."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(centres_seed).standard_normal((classes, features)) + 1.0
    y = np.repeat(np.arange(classes), per_class)
    z = (
        centres[y] + rng.standard_normal((len(y), features)) * np.geomspace(2.0, 0.3, features)
    ).astype(np.float32)
    return FactoryData(z, np.zeros((len(y), 0), np.float32), y, factory_weights(y, 25.0), 8)


def scored(score: Scores, factory: FactoryData, *parts: FactoryData) -> list[np.ndarray]:
    fitted = Fitted.of(Ridge(), ResidualShift(), factory).with_score(score, factory)
    return [fitted.novelty(score, part.z, part.taps) for part in parts]


@pytest.mark.parametrize(
    ("method", "stubs"),
    [(RelativeMahalanobis(), LEARN | STUBS), (RelativeResidual(angle=0.5), STUBS)],
    ids=["rmds", "relative_residual"],
)
def test_a_score_keeps_its_promises_and_its_stubs_do_not(method: Scores, stubs: set[str]) -> None:
    assert set(check_identity_stub(method)) == stubs


@pytest.mark.parametrize("method", [Energy(), MaxLogit(), MaxSoftmax()], ids=lambda m: m.name)
def test_logits_alone_miss_what_is_far_from_every_class(method: Scores) -> None:
    with pytest.raises(AssertionError, match="samples far from every class score above known ones"):
        check_method(method)


def test_energy_lies_between_the_largest_logit_and_its_bound() -> None:
    logits = torch.tensor([[1.0, 0.2, -1e9], [0.3, 0.3, -1e9]])
    z = logits[:, :0]
    energy, largest = Energy(0.1).novelty({}, z, z, logits), MaxLogit().novelty({}, z, z, logits)
    assert bool((energy <= largest).all()) and bool(
        (energy >= largest - 0.1 * np.log(2) - 1e-6).all()
    )
    assert MaxSoftmax().novelty({}, z, z, logits).tolist() == pytest.approx(
        [1 / (1 + np.exp(8)), 0.5], abs=1e-6
    )


def test_relative_distance_needs_only_the_discriminants() -> None:
    factory, known, novel = drawn(5, 60), drawn(5, 30, seed=1), drawn(8, 30, seed=2)
    few, all_of_them = (
        scored(RelativeMahalanobis(columns=width), factory, known, novel) for width in (4, 40)
    )
    for a, b in zip(few, all_of_them, strict=True):
        assert np.allclose(a, b, atol=1e-2 * np.abs(b).max())


def test_relative_distance_is_what_two_covariances_give() -> None:
    factory, other = drawn(4, 80), drawn(4, 10, seed=3)
    means = factory.class_means(factory.z)[:4]
    z, x = factory.z.astype(np.float64), other.z.astype(np.float64)
    within = (z - means[factory.y]).T @ (z - means[factory.y]) / len(z)
    within = 0.9 * within + 0.1 * np.trace(within) / 40 * np.eye(40)
    centred = means - z.mean(axis=0)
    total = within + centred.T @ centred / 4

    def squared(v: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        return np.einsum("nd,de,ne->n", v, np.linalg.inv(covariance), v)

    expected = np.min([squared(x - mean, within) for mean in means], axis=0) - squared(
        x - z.mean(axis=0), total
    )
    assert np.allclose(
        scored(RelativeMahalanobis(), factory, other)[0],
        expected,
        atol=1e-2 * np.abs(expected).max(),
    )


def test_inside_and_outside_tell_new_classes_better_than_raw_prototypes() -> None:
    factory = drawn(5, 80)
    known = drawn(5, 40, seed=1)
    everything = drawn(8, 40, seed=2, centres_seed=5)
    novel = everything.only(np.array([5, 6, 7]))
    marks = {
        score.name: auroc(*scored(score, factory, known, novel))
        for score in (Cosine(), RelativeMahalanobis(), RelativeResidual())
    }
    assert marks["relative_residual"] > marks["cosine"] and marks["rmds"] > 0.7


@pytest.mark.parametrize(
    "score",
    [RelativeMahalanobis(), RelativeResidual(), RelativeResidual(angle=0.5), Hypervector()],
    ids=lambda m: m.name,
)
def test_one_class_duplicates_and_columns_of_zeros_give_finite_scores(score: Scores) -> None:
    data = drawn(1, 30)
    data.z[10:] = data.z[:20]
    data.z[:, ::2] = 0.0
    assert all(np.isfinite(part).all() for part in scored(score, data, data, drawn(3, 5, seed=9)))


def judge_and_evidence() -> tuple[FactoryData, FactoryData]:
    return drawn(6, 40), drawn(6, 40, seed=1)


def test_every_score_can_be_named_and_its_name_is_its_own() -> None:
    assert {name: make().name for name, make in NOVELTY.items()} == {name: name for name in NOVELTY}


def test_bytes_count_frozen_evidence_and_derived_tensors() -> None:
    assert score_bytes(Cosine(), Dims(1280, 0, 32)) == 0
    assert score_bytes(NearestNeighbours(bank=256), Dims(1280, 0, 32)) == 4 * 256 * 1280
    assert (
        score_bytes(Hypervector(width=64, taps=False, bits=8), Dims(32, 0, 4))
        == 4 * 32 + 8 * 8 + 4 * 65 * 4 + 64 * 4
    )
    assert score_bytes(RelativeResidual(), Dims(1280, 128, 32)) < 0.15 * score_bytes(
        VirtualLogit(), Dims(1280, 128, 32)
    )


def part_of(evidence: FactoryData, judge: FactoryData) -> Part:
    fitted = Fitted.of(Ridge(), ResidualShift(), evidence)
    return Part(fitted, evidence, judge, np.arange(len(judge.y)))


def test_the_exporter_takes_the_best_that_fits_and_judges_no_other() -> None:
    evidence, judge = judge_and_evidence()
    candidates = [make() for make in NOVELTY.values()]
    best, marks = choose_novelty(candidates, part_of(evidence, judge), None, 0)
    assert marks[best.name] == max(marks.values()) and set(marks) == set(NOVELTY)
    limit = 4.0
    small, fitting = choose_novelty(
        candidates, part_of(evidence, judge), None, 0, novelty_kib=limit
    )
    assert score_bytes(small, evidence.dims) <= 1024 * limit and fitting[small.name] == max(
        fitting.values()
    )
    assert {
        name for name, mark in marks.items() if name in fitting and mark != fitting[name]
    } == set()
    assert set(fitting) == {
        s.name for s in candidates if score_bytes(s, evidence.dims) <= 1024 * limit
    }


def test_of_equal_scores_the_smaller_one_is_taken() -> None:
    evidence, judge = judge_and_evidence()
    wide = RelativeMahalanobis(columns=40)
    narrow = Renamed(RelativeMahalanobis(columns=8), "narrow")
    flat = [Flat(wide), Flat(narrow)]
    assert choose_novelty(flat, part_of(evidence, judge), None, 0)[0].name == "narrow"  # type: ignore[arg-type]


def test_a_score_far_slower_than_the_others_is_left_out() -> None:
    evidence, judge = judge_and_evidence()
    candidates = [Cosine(), RelativeMahalanobis(), Slow()]
    chosen, marks = choose_novelty(candidates, part_of(evidence, judge), None, 0, slowest=5.0)  # type: ignore[list-item]
    assert "slow" not in marks and chosen.name != "slow"


def test_a_limit_that_nothing_meets_names_the_smallest_score() -> None:
    evidence, judge = judge_and_evidence()
    with pytest.raises(InputError, match=r"novelty_kib = 1; the smallest, 'rmds', takes \d"):
        choose_novelty(
            [NearestNeighbours(), RelativeMahalanobis()],
            part_of(evidence, judge),
            None,
            0,
            novelty_kib=1,
        )


def marks_of(classes: int, unseen: FactoryData | None = None) -> tuple[str, dict[str, float]]:
    candidates = [RelativeMahalanobis(), Flat(Cosine()), NearestNeighbours()]
    images = None if unseen is None else (unseen.z, unseen.taps)
    judge = drawn(classes, 40, seed=1)
    chosen, marks = choose_novelty(candidates, part_of(drawn(classes, 40), judge), images, 0)  # type: ignore[list-item]
    return chosen.name, marks


def test_of_two_classes_each_is_held_out_in_turn() -> None:
    chosen, marks = marks_of(2)
    # one that compares classes cannot be judged by one
    assert chosen == "knn" and set(marks) == {"knn", "cosine"}
    assert marks["knn"] > 0.9 and marks["cosine"] == 0.5


def test_of_one_class_unseen_images_judge_and_without_them_nothing_does() -> None:
    far = drawn(3, 20, centres_seed=9)
    assert marks_of(1) == ("rmds", {})  # the first that was offered, and no mark
    chosen, marks = marks_of(1, far)
    assert chosen == "knn" and marks["knn"] > 0.9


def test_a_named_score_that_compares_classes_is_not_judged_by_one() -> None:
    data = drawn(2, 20)
    chosen, marks = choose_novelty([RelativeMahalanobis()], part_of(data, data), None, 0)
    fitted = Fitted.of(Ridge(), ResidualShift(), data).with_score(chosen, data)
    policy = novelty_policy(chosen, [Part(fitted, data, data, np.arange(len(data.y)))], marks)
    assert (
        policy.auroc is None
        and policy.judgement.startswith("not judged")
        and policy.threshold > -100
    )


class Renamed:
    """A score under another name."""

    def __init__(self, score: Scores, name: str) -> None:
        self._score, self.name = score, name

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["_score"], name)


class Flat(Renamed):
    """A score that cannot tell anything, of the size of another."""

    def __init__(self, score: Scores) -> None:
        super().__init__(score, score.name)

    def novelty(
        self, t: object, z: torch.Tensor, taps: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        return 0.0 * z[:, 0]


class Slow(Renamed):
    """A perfect oracle would not matter: it takes too long."""

    def __init__(self) -> None:
        super().__init__(Cosine(), "slow")

    def novelty(
        self, t: dict[str, torch.Tensor], z: torch.Tensor, taps: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        for _ in range(300):
            score = Cosine().novelty(t, z, taps, logits)
        return score


def test_the_relative_residual_is_what_its_definition_gives_for_classes_learned_later() -> None:
    factory, other = drawn(5, 60), drawn(8, 6, seed=2)
    fitted = Fitted.of(Ridge(), ResidualShift(), factory).with_score(RelativeResidual(), factory)
    t = {name: value.double() for name, value in fitted.values.items()}
    centre, span, known = t["shift.centre"], t["relative.span"], t["head.active"] > 0
    z = torch.from_numpy(other.z).double() - centre
    means, columns = (t["head.mean"] - centre)[known], t["shift.mean"][known][:, : len(span)]
    c = z @ t["shift.projection"]
    inside = (
        ((c[:, None] - columns) ** 2).sum(dim=2).amin(dim=1)
        - (c**2).sum(dim=1)
        + ((c @ t["relative.between"]) ** 2).sum(dim=1)
    )
    rest = (z**2).sum(dim=1) - ((c @ span) ** 2).sum(dim=1)
    moved = ((z[:, None] - means) ** 2).sum(dim=2) - (((c[:, None] - columns) @ span) ** 2).sum(
        dim=2
    )
    outside = torch.minimum(rest, moved.amin(dim=1)).clamp(min=0).sqrt()
    expected = (inside * t["relative.scale"][0] + outside * t["relative.scale"][1]).numpy()
    score = fitted.novelty(RelativeResidual(), other.z, other.taps)
    assert np.allclose(score, expected, atol=2e-4 * np.abs(expected).max())
    assert (moved.amin(dim=1) < rest).any()  # else the second half of the residual was not tried


def test_what_follows_from_the_class_means_alone_is_no_work_of_the_read_graph() -> None:
    factory = drawn(5, 60)
    fitted = Fitted.of(Ridge(), ResidualShift(), factory).with_score(RelativeResidual(), factory)
    frozen = tuple(
        spec.name for spec in RelativeResidual().tensors(factory.dims) if spec.kind == "frozen"
    )

    def draw(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
        return {
            "z": torch.from_numpy(
                factory.z[torch.randint(0, 300, (batch,), generator=generator).numpy()]
            )
        }

    graph = compile_graph(
        "score",
        lambda p, t: ({"score": RelativeResidual().novelty(t, p["z"], p["z"], p["z"])}, {}),
        draw,
        fitted.values,
        frozen=(*frozen, "shift.centre", "shift.projection"),
        check=False,
    )
    assert set(graph.reads) == {
        "head.mean",
        "head.active",
        "shift.mean",
        "relative.inner",
        "relative.offset",
    }
    nodes = onnx.load_model_from_string(graph.model).graph.node
    alone = {
        "head.mean",
        "shift.mean",
        "relative.inner",
        "relative.offset",
        "relative.span",
        "shift.centre",
    }
    for node in nodes:  # views of the class means are free, arithmetic on them alone is not
        if set(node.input) & alone and node.op_type in (
            "Slice",
            "Transpose",
            "Unsqueeze",
            "Gather",
        ):
            alone.update(node.output)
    work = [
        node.op_type
        for node in nodes
        if node.op_type in ("Mul", "Sub", "MatMul", "Gemm") and set(node.input[:2]) <= alone
    ]
    assert work == []
