"""Tune a network: statistics, a plan, training through the merge, and a report of what it did."""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.data.labelled import Labelled
from edgeadapt.host.encoders.networks import Normalised, normalised, to_nchw
from edgeadapt.host.training.train import evaluate, train
from edgeadapt.host.tuning.budget import Budget, Stored, plan_within
from edgeadapt.host.tuning.codecs import codec as codec_of
from edgeadapt.host.tuning.codecs import whole_codec
from edgeadapt.host.tuning.contracts import Delta, Score, Start
from edgeadapt.host.tuning.control import Control
from edgeadapt.host.tuning.deltas.whole import Head
from edgeadapt.host.tuning.network import TunedNetwork, Values
from edgeadapt.host.tuning.plan import Plan, key_of, planned, uniform_plan
from edgeadapt.host.tuning.probe import Probe, classifier_of, features, fit_probe
from edgeadapt.host.tuning.sites import Site, matching, sites_of
from edgeadapt.host.tuning.statistics import Statistics

Say = Callable[[str], None]
_STATISTICS = 256  # samples, in batches of 32: eight, as published for squared gradients
_BATCH = 32


@dataclass(frozen=True)
class TuneSettings:
    """What is tuned, and how; the rest is the trainer's.

    Attributes:
        delta: what changes the weights.
        size: of every site, without a budget; the largest that a site has, if it has none so large.
        sites: shell patterns of paths; all sites that the delta applies to.
        start: first values; None: the delta's own.
        budget: what all sites together may take; ``score`` shares it.
        score: how the budget is shared; None: the same size everywhere, the largest that fits.
        codec: of the numbers, as they are stored and as the merged network has them.
        epochs, batch, lr, weight_decay, augment: as in ``edgeadapt.host.training.train.train``,
            with AdamW; ``lr`` None takes that of the delta in :data:`RATES`.
        seed: of everything random.
    """

    delta: Delta
    size: int = 4
    sites: tuple[str, ...] = ("*",)
    start: Start | None = None
    budget: Budget | None = None
    score: Score | None = None
    codec: str = "float16"
    epochs: int = 20
    batch: int = 32
    lr: float | None = None
    weight_decay: float = 0.0
    augment: Literal["plain", "robust", "none"] = "plain"
    seed: int = 0


RATES: dict[str, float] = {
    "head": 1e-3,
    "full": 1e-4,
    "bias": 2e-3,
    "scale_shift": 2e-3,
    "low_rank": 1e-3,
}
"""Peak rates of AdamW, by delta; those that are not named have that of ``low_rank``."""


@dataclass(frozen=True)
class Report:
    """What tuning did.

    Attributes:
        numbers: trained inside the encoder; ``numbers_whole``: of the classifier, beside them.
        bytes: of the numbers inside, under the codec.
        accuracy_before: of a linear probe on the base, on the validation samples.
        accuracy: of the tuned network there, with the numbers as they are stored.
        accuracy_unrounded: with the numbers as they were trained.
        control_before, control: accuracy on what must not be lost; None without a control.
        merge_error: largest difference of a logit between the tuned network and the merged one, of
            the largest logit.
        seconds: of everything. peak_mib: most memory that the process had.
        macs: of the encoder, a sample; a merge adds none.
    """

    numbers: int
    numbers_whole: int
    bytes: int
    accuracy_before: float
    accuracy: float
    accuracy_unrounded: float
    control_before: float | None
    control: float | None
    merge_error: float
    seconds: float
    peak_mib: float
    macs: int

    def asdict(self) -> dict[str, Any]:
        """The figures, by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Tuned:
    """What :func:`tune` returns.

    Attributes:
        network: the merged one, in evaluation mode, on the CPU; it takes what a device gives it.
        base: the same network before.
        plan: what was tuned; its sites are those of ``base.network``.
        values: of the plan, as a file gives them back; those of ``network``.
        trained: the same before they were rounded: what a file is written from, since bits of
            rounded values would be others.
        classifier: path in ``network.network`` of the layer that classifies.
    """

    network: Normalised
    base: Normalised
    plan: Plan
    values: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]
    classifier: str
    settings: TuneSettings
    report: Report
    classes: tuple[str, ...]


def tune(
    network: nn.Module,
    data: Labelled,
    validation: Labelled,
    settings: TuneSettings,
    *,
    control: Labelled | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Say = print,
) -> Tuned:
    """Train a delta inside a network, and its classifier with it.

    The classifier starts as a logistic regression on the base's features; the base stays in
    evaluation mode, so its norms keep their statistics and nothing is dropped.

    Args:
        network: takes (B, C, H, W) float32, or signals, and returns logits (B, classes) by a linear
            layer; the base, which is not changed. Its ``input_moments``, or those of ``data``,
            stand in front of it.
        data: at least two classes, at least one sample of each.
        validation: samples with the same classes; they judge, and nothing is chosen by them.
        settings: what is tuned.
        control: what must not be lost, of any classes: see ``edgeadapt.host.tuning.control``.
        checkpoint, resume: as in ``edgeadapt.host.training.train.train``.
        progress: called with one line at once.

    Raises:
        InputError: no site fits, the delta applies to none, the budget is too small, or the data do
            not fit together.
        StateError, DivergenceError, TrainingMemoryError: as in training.
    """
    began = time.perf_counter()
    base = normalised(network, data.x).eval()
    inputs, labels = to_nchw(data.x), torch.from_numpy(data.y)
    example = base.normalise(_two_different(inputs).float())
    classifier = classifier_of(base.network, example)
    path = f"network.{classifier}"
    probe = fit_probe(features(base, path, inputs), labels, len(data.classes), seed=settings.seed)
    base = _with_probe(base, classifier, probe)
    before = evaluate(base, validation)
    progress(f"tune: a linear probe on the base has {before:.2%} of {len(validation):,} samples")
    inner = base.network
    sites = sites_of(inner, example)
    inside = matching([site for site in sites if site.path != classifier], settings.sites)
    whole = {
        name: tuple(value.shape)
        for name, value in inner.named_parameters()
        if name.rpartition(".")[0] == classifier
    }
    applied = [site for site in inside if settings.delta.sizes(site)]
    statistics = _statistics(base, data, applied, settings)
    stored = Stored(settings.codec, settings.start.stored if settings.start else 1)
    if isinstance(settings.delta, Head):
        plan = planned(settings.delta, (), (), whole)
    elif settings.budget is None:
        plan = replace(uniform_plan(settings.delta, inside, settings.size, {}), whole=whole)
    else:
        costs = None if settings.score is None else partial(settings.score.cost, s=statistics)
        plan = plan_within(settings.budget, settings.delta, inside, whole, stored, costs)
    size = stored.of_plan(plan)
    progress(
        f"tune: {plan.delta.name} trains {plan.numbers:,} numbers at {len(plan.sites)} of"
        f" {len(inside)} sites, {size:,} bytes in {settings.codec}; and the classifier"
    )
    tuned = TunedNetwork(inner, plan, _first_values(inner, plan, settings, statistics))
    wrapped = Normalised(tuned, *_moments(base))
    train(
        wrapped,
        data,
        validation,
        epochs=settings.epochs,
        batch=min(settings.batch, len(data)),
        optimiser="adamw",
        lr=settings.lr or RATES.get(plan.delta.name, RATES["low_rank"]),
        weight_decay=settings.weight_decay,
        augment=settings.augment,
        seed=settings.seed,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    unrounded = evaluate(wrapped, validation)
    trained = {name: value.cpu() for name, value in tuned.values.items()}
    values = _stored(trained, plan, settings.codec)
    rounded = TunedNetwork(inner, plan, values).eval()
    merged = Normalised(rounded.merge(), *_moments(base)).eval()
    watch = Control(control, classifier) if control is not None else None
    report = Report(
        numbers=plan.numbers,
        numbers_whole=plan.numbers_whole,
        bytes=size,
        accuracy_before=before,
        accuracy=evaluate(merged, validation),
        accuracy_unrounded=unrounded,
        control_before=watch.accuracy(base) if watch else None,
        control=watch.accuracy(merged) if watch else None,
        merge_error=_difference(Normalised(rounded, *_moments(base)).eval(), merged, inputs),
        seconds=time.perf_counter() - began,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        macs=sum(site.macs for site in sites),
    )
    return Tuned(merged, base, plan, values, trained, classifier, settings, report, data.classes)


def _two_different(x: Tensor) -> Tensor:
    different = (x != x[:1]).flatten(1).any(1).nonzero()
    if not len(different):
        raise InputError("all inputs are equal, so there is nothing to learn")
    return x[[0, int(different[0])]]


def _moments(base: Normalised) -> tuple[list[float], list[float]]:
    return base.normalise.mean.flatten().tolist(), base.normalise.std.flatten().tolist()


def _with_probe(base: Normalised, classifier: str, probe: Probe) -> Normalised:
    """A copy whose classifier is the probe: what training starts from, and slopes are taken at."""
    found = copy.deepcopy(base)
    layer = found.network.get_submodule(classifier)
    with torch.no_grad():
        for name, value in (("weight", probe.weight), ("bias", probe.bias)):
            if getattr(layer, name) is not None:
                getattr(layer, name).copy_(value)
    return found


def _statistics(
    base: Normalised, data: Labelled, sites: Sequence[Site], settings: TuneSettings
) -> Statistics:
    """What start and score read, over samples drawn by the seed."""
    parts = (settings.start, settings.score)
    wants = {want for part in parts if part is not None for want in part.wants}
    drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(settings.seed))
    rows = drawn[:_STATISTICS] if wants else drawn[:0]
    inputs, labels = to_nchw(data.x), torch.from_numpy(data.y)
    batches = ((base.normalise(inputs[part].float()), labels[part]) for part in rows.split(_BATCH))
    return Statistics.collect(base.network, batches if wants else (), sites, wants)


def _first_values(
    inner: nn.Module, plan: Plan, settings: TuneSettings, statistics: Statistics
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(settings.seed)
    weights = {name: value.detach() for name, value in inner.named_parameters()}
    found: dict[str, Tensor] = {}
    for site, size in zip(plan.sites, plan.sizes, strict=True):
        values = (
            plan.delta.start(site, size, weights, generator)
            if settings.start is None
            else settings.start(site, size, weights, statistics, generator)
        )
        found |= {key_of(site, name): value for name, value in values.items()}
    return found | {name: weights[name] for name in plan.whole}


def _stored(values: Values, plan: Plan, codec: str) -> dict[str, Tensor]:
    """The numbers as a file gives them back."""
    whole, found = whole_codec(values[name].numpy() for name in plan.whole), {}
    for name, value in values.items():
        kind = codec_of(whole if name in plan.whole else codec)
        rounded = kind.decode(kind.encode(value.numpy()), tuple(value.shape))
        found[name] = torch.from_numpy(rounded)
    return found


@torch.no_grad()
def _difference(tuned: nn.Module, merged: nn.Module, inputs: Tensor) -> float:
    want = tuned(inputs[:_BATCH].float())
    return float((merged(inputs[:_BATCH].float()) - want).abs().max() / want.abs().max())


__all__ = ["RATES", "Budget", "Report", "TuneSettings", "Tuned", "tune"]
