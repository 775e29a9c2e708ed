"""The policy in a manifest: every number that a decision on the device needs."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from edgeadapt.bundle._fields import AdaptMode, Positive, Size, Slots, Strict


class ShiftPolicy(Strict, frozen=True, kw_only=True):
    """Thresholds of the shift axis, one per group of residual columns."""

    window: Slots = 32
    groups: tuple[Slots, ...] = ()  # widths; they add up to R
    thresholds: tuple[float, ...] = ()  # of the window statistic
    confirm_windows: Positive = 2  # consecutive windows above the threshold before anything acts
    strong: float = 4.0  # times the threshold: such a window needs no second one
    clear_windows: Positive = 2  # consecutive windows below it before the condition counts as over
    # columns of the residual space that tell conditions apart
    signature: tuple[Size, Size] = (0, 0)
    # relative squared distance below which two signatures are the same condition
    route_distance: float = 0.1


class NoveltyPolicy(Strict, frozen=True, kw_only=True):
    method: str = ""
    threshold: float = 0.0  # of the per-sample score
    rate: float = 0.05  # share of known clean samples above the threshold at calibration
    window_share: float = 0.5  # share of novel samples in a window that reads as novel
    # the lower of two: classes held out of the head, and images that no training showed; None: not
    # judged
    auroc: float | None = None
    alternatives: dict[str, float] = field(default_factory=dict)

    @property
    def judgement(self) -> str:
        """The mark in words; a bundle from before marks were optional has one of .5 and no
        alternatives where none was made.
        """
        if self.auroc is None or not self.alternatives:
            return "not judged: no class could be held out"
        return f"AUROC {self.auroc:.3f} on what it did not know"


class AdaptPolicy(Strict, frozen=True, kw_only=True):
    """Whether label-free adaptation may act, as the bundle's own stress card decided."""

    mode: AdaptMode = "off"
    method: str = ""
    # share of the way from the factory's statistics to a condition's that a correction goes
    strength: Annotated[float, Meta(gt=0, le=1)] = 1.0
    # calls of the graph per refresh, each from the tensors that the one before left
    steps: Positive = 1
    # an adapted encoder's features mean what the factory's do: labels may be learned from them
    preserves_space: bool = True
    # share of their distance from the classes that corrected inputs may keep, else the correction
    # is not used
    home: float = 0.85
    memory: Size = 64  # recent inputs, in memory only
    min_memory: Size = 32  # samples before the first correction
    refresh_samples: Positive = 64  # between two refreshes
    reason: str = ""


class LearnPolicy(Strict, frozen=True, kw_only=True):
    method: str = ""
    field_weight: float = 1.0  # sample_weight of a label from the field
    # all factory samples of a class together weigh as much as this many labels
    factory_count: float = 25.0
    held_out_every: Positive = 5
    temperature: float = 1.0  # softmax temperature of the logits
    # evidence of which the factory's share may count more or less: the head's sums
    weighted: tuple[str, ...] = ()
    # of that share, to choose from; 1 is ``factory_count`` labels a class
    factory_weights: tuple[float, ...] = (0.04, 0.2, 1.0, 4.0, 16.0)
    shrinkages: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)  # times the bundle's own, to choose from
    judged: Positive = 256  # newest labels of a condition that choose


class GuardPolicy(Strict, frozen=True, kw_only=True):
    margin: float = 0.01  # accuracy a candidate may lose
    significance: float = 0.05  # one-sided paired sign test
    # accuracy on factory samples that all labels together may cost, however small each step is
    worst: float = 0.05
    factory_samples: Size = 0
    source_error: float = 0.1  # share of clean held-out samples the factory head gets wrong
    # a source whose labels contradict the head less likely than this is held
    source_significance: float = 1e-4


class AskPolicy(Strict, frozen=True, kw_only=True):
    per_condition: Size = 20
    per_batch: Size = 10
    per_day: Size = 200
    at_most: Size = 100  # in one condition, where answers say that 20 were not enough


class AccuracyPolicy(Strict, frozen=True, kw_only=True):
    """The label-free estimate of accuracy, from held-out calibration samples: see
    ``device/accuracy.py``.
    """

    # of the margin between the two largest logits: the share below it is the estimated error
    threshold: float = 0.0
    accuracy: Annotated[float, Meta(ge=0, le=1)] = 1.0  # of the head on the held-out samples
    samples: Size = 0  # how many these were; 0: the bundle was exported without an estimate
    # share below the threshold among held-out samples taken for a class
    class_rates: tuple[float, ...] = ()
    margin: float = 0.05  # accuracy that may be lost before it counts
    deviations: float = 2.5  # standard deviations beyond the margin that chance is given
    # windows over which the excess is looked at
    horizons: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (4, 8, 16)
    # per horizon: sum of squared shares of the predicted classes from which on ...
    concentrations: tuple[float, ...] = ()
    # ... so much excess is that of difficult classes which come one after the other
    allowances: tuple[float, ...] = ()


class AdaptorSpec(Strict, frozen=True, kw_only=True):
    """One adaptor that a condition may grow, and how it is trained. Its graphs (read, fit, probe)
    name it among their methods.
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9_]+$")]
    # of a domain, read in predictions; what only training needs is not listed
    tensors: Annotated[tuple[str, ...], Meta(min_length=1)]
    learning_rate: float
    steps: Positive
    batch: Positive
    per_column: bool = False  # it trains one number per column of its probe, and not a read-out


class GrowthPolicy(Strict, frozen=True, kw_only=True):
    """When a condition grows an adaptor of its own, and which."""

    candidates: tuple[AdaptorSpec, ...] = ()
    fewest_labels: Positive = 40  # learned labels of the condition
    again: float = 1.5  # looked at again when the labels have grown by this factor
    # relative squared distance between the earlier and the later half of its labelled samples
    coherent: float = 0.15
    samples: Positive = 256  # labelled samples it is trained on, at most
    # by which candidates are ranked without training
    score: Literal["ridge", "spectral", "naswot"] = "ridge"
    margin: float = 0.01  # accuracy that it must win in cross-validation
    adaptor_kib: float = 1024.0  # of one condition
    # that a sample may take in what an adaptor reads, measured on the device
    adaptor_ms: float = 1.0


class SmoothPolicy(Strict, frozen=True, kw_only=True):
    """Whether answers of a batch speak for each other where a stream shows one class after the
    other. Predictions alone read it.
    """

    method: str = ""  # "" for a bundle without one
    # standard deviations above what a stream without order shows, see ``device/correlation.py``
    threshold: float = 3.0
    fewest: Slots = 8  # samples of a batch; smaller ones are left alone


class PolicySpec(Strict, frozen=True, kw_only=True):
    """Every number a decision needs; the device reads them and raises none."""

    shift: ShiftPolicy = ShiftPolicy()
    novelty: NoveltyPolicy = NoveltyPolicy()
    adapt: AdaptPolicy = AdaptPolicy()
    learn: LearnPolicy = LearnPolicy()
    guard: GuardPolicy = GuardPolicy()
    ask: AskPolicy = AskPolicy()
    accuracy: AccuracyPolicy = AccuracyPolicy()
    growth: GrowthPolicy = GrowthPolicy()
    smooth: SmoothPolicy = SmoothPolicy()
