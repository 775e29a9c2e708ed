"""What a user may choose when a bundle is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from edgeadapt.bundle.schema import Variant
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Adapts, Dims, FactoryData, GivesReceipts, Head, Scores
from edgeadapt.host.exporting.cross_fitting import FEW_FEATURES, Chosen, Folds, choose_slda, judged
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.projection import HadamardProjection, PrincipalProjection
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.label_free.adaptations import ENCODER_SPACE, NAMES
from edgeadapt.host.methods.novelty.cosine import Cosine
from edgeadapt.host.methods.novelty.hypervector import Hypervector
from edgeadapt.host.methods.novelty.mahalanobis import Mahalanobis
from edgeadapt.host.methods.novelty.nearest_neighbours import NearestNeighbours
from edgeadapt.host.methods.novelty.relative_mahalanobis import RelativeMahalanobis
from edgeadapt.host.methods.novelty.relative_residual import RelativeResidual
from edgeadapt.host.methods.novelty.virtual_logit import VirtualLogit

HEADS = ("slda", "ridge", "nearest_mean", "key_value")
NOVELTY: dict[str, Callable[[], Scores]] = {
    "cosine": Cosine,
    "knn": NearestNeighbours,
    "vim": VirtualLogit,
    "mahalanobis": Mahalanobis,
    "rmds": RelativeMahalanobis,
    "relative_residual": RelativeResidual,
    "relative_residual_angle": partial(RelativeResidual, angle=0.5),
    "hypervector": Hypervector,
}
ONLY_BY_NAME = ("relative_residual_angle",)
"""Scores that ``auto`` does not try: marks on an encoder that was trained on the held-out classes
cannot tell this one from its simpler form.
"""
ADAPTATIONS = ("auto", *NAMES, "none")
SMOOTHERS = ("none", "lame")
VARIANTS: tuple[str, ...] = get_args(Variant)


@dataclass(frozen=True)
class Settings:
    """What a user may choose; the defaults were chosen on validation streams.

    Attributes:
        name: of the bundle.
        version: its number, from 1 on: raise it with every bundle of that name that you ship. A
            device refuses an older one than its state folder has seen.
        seed: of splits and simulated windows.
        class_slots, domain_slots: capacity, fixed at export.
        head: ``slda`` (streaming linear discriminant analysis whose scales and shrinkage are chosen
            by cross-fitting), ``ridge``, ``nearest_mean``, ``key_value``, or a head of your own (an
            object, see ``host/contracts.py``).
        random_features: width for the ridge; -1 chooses 512 below 64 dimensions, else none.
        penalty, balance: of the ridge head, see ``methods/heads/ridge.py``.
        state_kib: instead of ``head``, the best head on held-out calibration samples whose tensors
            take no more, see ``head_search.py``; None for ``head``.
        novelty: ``auto`` (by held-out classes) or a score's name.
        novelty_kib: with ``auto``, scores whose frozen tensors, evidence and derived copies take
            more are left out; None for no limit.
        adapt: ``auto`` (class-matched statistics if the encoder has batch-norms, else feature shift
            or mean and deviation, whichever the stress card prefers) or a method's name.
        smooth: ``lame`` lets answers of a batch speak for each other on streams that show one class
            after the other, where adaptation acts; ``none`` leaves it out.
        adaptors: ``family`` puts candidates into the bundle of which a condition may grow one from
            its labels (three graphs each), ``none`` leaves them out; or some of them, in sizes of
            your choice (``LowRank(4)``).
        adaptor_kib: the largest that may be kept per condition.
        stress: run the stress streams and let them decide whether adaptation may act
            (``docs/stress_card.md``): True or ``"short"`` the short card, which says so in its
            reason, ``"long"`` the full one, which takes minutes; without them it only advises.
        factory_count: labels that all factory samples of a class together weigh as much as.
        guard_per_class: factory samples per class that travel in the bundle to judge changes.
        precisions: variants of the encoder that travel beside the float32 one, of ``float16`` and
            ``int8``; ``precision_margin`` is the held-out accuracy that each may lose, see
            ``docs/precision.md``.
        colour, range, resize, feature, taps: see ``host.encoders.as_encoder``.
    """

    name: str = "model"
    version: int = 1
    seed: int = 0
    class_slots: int = 32
    domain_slots: int = 8
    batches: tuple[int, ...] = (1, 8, 32)
    head: str | Head = "slda"
    random_features: int = -1
    penalty: float = 1e-2
    balance: float = 1.45
    state_kib: float | None = None
    novelty: str = "auto"
    novelty_kib: float | None = None
    adapt: str = "auto"
    smooth: str = "none"
    adaptors: str | Sequence[Adapts] = "none"
    adaptor_kib: float = 1024.0
    stress: bool | Literal["short", "long"] = True
    factory_count: float = 25.0
    guard_per_class: int = 50
    precisions: Sequence[str] = ()
    precision_margin: float = 0.01
    colour: str | None = None
    range: tuple[float, float] | None = None
    resize: str | None = None
    feature: str | None = None
    taps: Sequence[str] | None = None
    encoder_name: str = ""
    data_name: str = ""
    recipe_sha256: str = ""

    def check(self, classes: Sequence[str]) -> None:
        if not isinstance(self.head, (str, Head)):
            raise InputError(
                f"head is one of {', '.join(HEADS)}, or an object with the functions of a head, got"
                f" {self.head!r:.80}"
            )
        named = self.head if isinstance(self.head, str) else HEADS[0]
        for key, value, allowed in (
            ("head", named, HEADS),
            ("novelty", self.novelty, ("auto", *NOVELTY)),
            ("adapt", self.adapt, ADAPTATIONS),
            ("smooth", self.smooth, SMOOTHERS),
            (
                "adaptors",
                self.adaptors if isinstance(self.adaptors, str) else "family",
                ("none", "family"),
            ),
        ):
            if value not in allowed:
                raise InputError(f"{key} is one of {', '.join(allowed)}, got {value!r}")
        if not isinstance(self.stress, bool) and self.stress not in ("short", "long"):
            raise InputError(f'stress is True, False, "short" or "long", got {self.stress!r:.80}')
        if (
            isinstance(self.version, bool)
            or not isinstance(self.version, int)
            or not 0 < self.version < 2**53
        ):
            raise InputError(f"version is a whole number from 1 to 2**53 - 1, got {self.version!r}")
        for key, value in (
            ("state_kib", self.state_kib),
            ("novelty_kib", self.novelty_kib),
            ("adaptor_kib", self.adaptor_kib),
        ):
            if value is not None and (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0.0 < value < float("inf")
            ):
                raise InputError(f"{key} is a positive number of KiB, got {value!r:.80}")
        if self.state_kib is not None and (self.head != HEADS[0] or self.random_features >= 0):
            raise InputError(
                f"state_kib = {self.state_kib:g} chooses the head itself; leave head and"
                " random_features as they are"
            )
        if (
            isinstance(self.precisions, str)
            or any(name not in VARIANTS for name in self.precisions)
            or len(set(self.precisions)) < len(self.precisions)
        ):
            raise InputError(
                f"precisions are some of {', '.join(VARIANTS)}, each once, got"
                f" {self.precisions!r:.80}"
            )
        if (
            isinstance(self.precision_margin, bool)
            or not isinstance(self.precision_margin, (int, float))
            or not 0.0 <= self.precision_margin <= 1.0
        ):
            raise InputError(
                f"precision_margin is an accuracy from 0 to 1, got {self.precision_margin!r:.80}"
            )
        if len(classes) > self.class_slots:
            raise InputError(
                f"{len(classes)} classes do not fit into class_slots = {self.class_slots}"
            )

    def chosen_head(
        self,
        data: FactoryData,
        halves: tuple[FactoryData, FactoryData],
        fold: Folds,
        say: Callable[[str], None],
    ) -> Chosen:
        """The head, with cross-fitted logits of every row; what was tried is said.

        Args:
            data: every calibration row.
            halves: the rows in two parts, for the choice within ``state_kib``.
            fold: (N,) for cross-fitting.

        Raises:
            InputError: nothing fits ``state_kib``; the message has the bytes of the smallest head.
        """
        if self.state_kib is not None:
            return judged(self._within_bytes(*halves, say), data, fold)
        if not isinstance(self.head, str):
            return judged(self.head, data, fold)
        if self.head == "nearest_mean":
            return judged(NearestMean(), data, fold)
        if self.head == "key_value":
            from edgeadapt.host.exporting import head_search as ladder

            projection = (
                None
                if data.dims.features <= ladder.FEW_FEATURES
                else PrincipalProjection(64, self.seed)
            )
            return judged(KeyValueBottleneck(projection=projection, seed=self.seed), data, fold)
        if self.head == "ridge":
            random_features = (
                (512 if data.dims.features < FEW_FEATURES else 0)
                if self.random_features < 0
                else self.random_features
            )
            return judged(
                Ridge(
                    penalty=self.penalty,
                    balance=self.balance,
                    random_features=random_features,
                    seed=self.seed,
                ),
                data,
                fold,
            )
        say("calibrate: the head")
        return choose_slda(data, fold, self.seed, say)

    def _within_bytes(
        self, evidence: FactoryData, judge: FactoryData, say: Callable[[str], None]
    ) -> Head:
        from edgeadapt.host.exporting.head_search import candidates, choose_head

        known = candidates(evidence.dims, self.seed, penalty=self.penalty, balance=self.balance)
        if self.adaptors != "none":
            known = [candidate for candidate in known if not _why_no_adaptors(candidate.head)]
        choice = choose_head(evidence, judge, self.state_kib, self.seed, heads=known)
        say(
            f"calibrate: heads within {self.state_kib:g} KiB, accuracy with half of the classes"
            " learned later"
        )
        for line in choice.table().splitlines():
            say(f"  {line}")
        return choice.head

    def novelty_candidates(self) -> list[Scores]:
        """One that was named, or all that ``auto`` tries."""
        names = (
            [name for name in NOVELTY if name not in ONLY_BY_NAME]
            if self.novelty == "auto"
            else [self.novelty]
        )
        return [NOVELTY[name]() for name in names]

    def adaptor_family(self, dims: Dims, head: Head, temperature: float) -> list[Adapts]:
        """The adaptors that ship, trained through the head; a head that counts has none.

        Raises:
            InputError: they were asked for and cannot be had.
        """
        if self.adaptors == "none":
            return []
        if reason := _why_no_adaptors(head):
            raise InputError(
                f"adaptors = 'family' needs a head that a gradient goes through: {reason}"
            )
        from edgeadapt.host.methods.adaptors.family import TRAINING, family
        from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor

        if not isinstance(self.adaptors, str):
            for adaptor in self.adaptors:
                if not isinstance(adaptor, TrainedAdaptor) or adaptor.kind not in TRAINING:
                    raise InputError(
                        f"adaptors are those of edgeadapt.host.methods ({', '.join(TRAINING)}) in"
                        f" sizes of your choice, got {adaptor!r:.80}"
                    )
                if 4 * adaptor.parameter_count(dims) > 1024 * self.adaptor_kib:
                    raise InputError(
                        f"{adaptor.name} takes {4 * adaptor.parameter_count(dims) / 1024:.1f} KiB,"
                        f" adaptor_kib is {self.adaptor_kib:g}"
                    )
            names = [adaptor.name for adaptor in self.adaptors]
            if len(set(names)) < len(names):
                raise InputError(f"two adaptors have the same name: {', '.join(names)}")
            return list(self.adaptors)
        return list(family(dims, state_kib=self.adaptor_kib, scale=1.0 / temperature))

    def adaptations(self, has_norms: bool) -> tuple[str, ...]:
        """Label-free methods for an encoder with or without batch-norms, the one to take where the
        card prefers none first.

        Raises:
            InputError: a method that changes the encoder was asked for, and there are no
                batch-norms in it.
        """
        if self.adapt in ENCODER_SPACE and not has_norms:
            raise InputError(
                f"adapt = {self.adapt!r} needs an encoder with batch-norm layers that can adapt;"
                " this one has none"
            )
        if self.adapt != "auto":
            return (self.adapt,)
        return ("class_matched_statistics",) if has_norms else ("feature_shift", "mean_std")


def _why_no_adaptors(head: Head) -> str:
    """Why a device cannot train an adaptor through this head; empty if it can."""
    if isinstance(head, GivesReceipts):
        return f"{head.name} counts"
    if isinstance(getattr(head, "projection", None), HadamardProjection):
        return (
            "the rows of a Hadamard projection are picked, and their gradient is no graph that"
            " compiles; a principal projection does"
        )
    return ""
