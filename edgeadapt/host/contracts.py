"""What a method file provides, and the sizes it is written against.

A method is a frozen dataclass. It declares its tensors, fills in their factory values from
calibration data, and gives one pure torch function per role it answers: torch in, torch out, no
side effects. The compiler turns the functions into graphs; the device runs them without knowing the
method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.device.numerics.linalg import NUMERICS

Values = Mapping[str, Tensor]
Arrays = dict[str, NDArray[Any]]
INACTIVE = -1e9
"""Logit of an unused class slot: finite, so that softmax and its gradient stay finite."""


@dataclass(frozen=True)
class Dims:
    """Sizes fixed at export: feature width, tap width, class slots."""

    features: int
    taps: int
    slots: int


@dataclass(frozen=True)
class FactoryData:
    """Calibration features of the factory condition.

    Attributes:
        z: (N, D) float32; taps: (N, T) float32; y: (N,) int64 class slots.
        sample_weight: (N,) float32, so that every class weighs ``factory_count`` in total.
    """

    z: NDArray[np.float32]
    taps: NDArray[np.float32]
    y: NDArray[np.int64]
    sample_weight: NDArray[np.float32]
    slots: int

    @property
    def dims(self) -> Dims:
        return Dims(self.z.shape[1], self.taps.shape[1], self.slots)

    @property
    def classes(self) -> NDArray[np.int64]:
        return np.unique(self.y)

    def rows(self, keep: NDArray[Any]) -> FactoryData:
        """Some rows, by a mask or by numbers."""
        return FactoryData(
            self.z[keep], self.taps[keep], self.y[keep], self.sample_weight[keep], self.slots
        )

    def only(self, slots: NDArray[np.int64]) -> FactoryData:
        return self.rows(np.isin(self.y, slots))

    def class_means(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """(K, d) mean of ``values`` (N, d) per class slot; zero for unused slots."""
        means = np.zeros((self.slots, values.shape[1]))
        for k in self.classes:
            means[k] = values[self.y == k].mean(axis=0, dtype=np.float64)
        return means


@runtime_checkable
class Method(Protocol):
    """Every method has a name, tensors and their factory values."""

    @property
    def name(self) -> str: ...

    def tensors(self, dims: Dims) -> list[TensorSpec]: ...

    def factory(self, data: FactoryData) -> Arrays:
        """Values of every frozen, evidence, parameter and statistic tensor."""
        ...


@runtime_checkable
class Learns(Method, Protocol):
    """Role ``learn``: additive evidence, so a negative weight forgets."""

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]: ...


@runtime_checkable
class Derives(Method, Protocol):
    """Derived tensors by numerics of the closed list, in order."""

    def numerics(self) -> list[NumericSpec]: ...


@runtime_checkable
class Head(Learns, Derives, Protocol):
    """Roles ``learn``, ``derive`` and ``predict``: evidence in, class logits out."""

    def predict(self, t: Values, z: Tensor) -> Tensor: ...


@runtime_checkable
class GivesReceipts(Learns, Protocol):
    """Roles ``learn`` and ``redeem`` of tensors that count: forgetting needs where a sample was
    counted, not its features.

    ``redeem(t, receipt(t, z), y, w)`` is what ``learn(t, z, taps, y, w)`` does to the tensors whose
    spec has ``receipt=True``, bit for bit.
    """

    def receipt(self, t: Values, z: Tensor) -> Tensor:
        """(B, C) uint8 or int32: where each sample is counted. It depends on frozen tensors alone,
        so that it stays valid.
        """
        ...

    def redeem(
        self, t: Values, receipt: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]: ...


@runtime_checkable
class Corrects(Method, Protocol):
    """Role ``correct``."""

    def correct(self, t: Values, z: Tensor) -> Tensor: ...


@runtime_checkable
class AdaptsFeatures(Method, Protocol):
    """Role ``adapt`` on features, beside ``correct`` or ``adjust`` or both: a label-free method of
    a condition that leaves the encoder alone.

    Its ``domain`` tensors are what the correction reads; in their factory state ``correct`` and
    ``adjust`` change nothing. ``steps`` (default 1) says how often ``adapt`` is called per refresh.
    """

    def adapt(
        self, t: Values, z: Tensor, sample_weight: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs ``used`` (B,) and ``wants_reset`` (), and new domain tensors; rows of weight 0
        change nothing.
        """
        ...


@runtime_checkable
class Adjusts(Method, Protocol):
    """The part of a label-free method that changes answers: logits (B, K) of corrected features (B,
    D) to logits (B, K).
    """

    def adjust(self, t: Values, z: Tensor, logits: Tensor) -> Tensor: ...


@runtime_checkable
class AdaptsEncoder(Method, Protocol):
    """Roles ``adapt`` on inputs and ``derive`` (``refold``): a label-free method of a condition
    that changes the encoder's constants.

    Ports are ``x`` (B, *input), ``sample_weight`` (B,) and, for a method with ``noise_width`` above
    0, ``noise`` (noise_width,) standard normal. ``steps`` (default 1) says how often ``adapt`` is
    called per refresh, each time from what the call before wrote. ``preserves_space`` (default
    True) is False if an adapted encoder's features mean something else than the factory's; labels
    are then learned from the factory encoder's. ``home`` (default 0.85): see ``AdaptPolicy.home``.
    ``can_shrink`` (default False): its statistics may be moved part of the way back to the
    factory's, ``AdaptPolicy.strength``, and correct that much less.
    """

    frozen: dict[str, Tensor]
    """Constants of its own, by name, beside the encoder's."""

    def adapt(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs ``used`` (B,) and ``wants_reset`` (), and new domain tensors; rows of weight 0
        change nothing.
        """
        ...

    def refold(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No ports, no outputs; the encoder's constants that follow from the domain tensors, those
        of the factory from the factory's.
        """
        ...


@runtime_checkable
class Adapts(Corrects, Protocol):
    """Roles ``probe`` and ``fit`` beside ``correct``: an adaptor that one condition grows, trained
    by gradient steps on the device.
    """

    def probe(self, t: Values, z: Tensor) -> Tensor:
        """(B, P) the features whose read-out it trains, at its factory values."""
        ...

    def fit(
        self,
        t: Values,
        z: Tensor,
        y: Tensor,
        sample_weight: Tensor,
        learning_rate: Tensor,
        predict: Callable[[Values, Tensor], Tensor] = ...,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step; ``predict`` is the head's read-out. Returns the output ``loss`` () and new
        parameters.
        """
        ...


@runtime_checkable
class Scores(Method, Protocol):
    """Role ``novelty``: larger is more novel. A score that learns keeps what it needs of the labels
    met under factory conditions.
    """

    def novelty(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor: ...


@runtime_checkable
class Senses(Method, Protocol):
    """Role ``shift``: residuals from the predicted class."""

    def shift(self, t: Values, z: Tensor, taps: Tensor, logits: Tensor) -> Tensor: ...


def one_hot(y: Tensor, slots: int) -> Tensor:
    """(B,) int64 -> (B, K) float32, without a scatter (TensorRT refuses reducing scatters)."""
    return (y[:, None] == torch.arange(slots, device=y.device)[None, :]).to(torch.float32)


def with_one(z: Tensor) -> Tensor:
    """(B, D) -> (B, D + 1), a constant 1 appended: its weights are the bias and its sums are the
    counts.
    """
    return torch.cat([z, torch.ones_like(z[:, :1])], dim=1)


def class_moment(values: Tensor, y: Tensor, sample_weight: Tensor, slots: int) -> Tensor:
    """(d + 1, K): sum of w * [value, 1] per class; the last row is the count."""
    return with_one(values).T @ (one_hot(y, slots) * sample_weight[:, None])


def linear_logits(t: Values, z: Tensor) -> Tensor:
    """The read-out that all linear heads share: ``[z, 1] W``, unused slots masked."""
    logits = z @ t["head.weight"][:-1] + t["head.weight"][-1]
    return logits + (t["head.active"] - 1.0) * -INACTIVE


def head_tensors(width: int, dims: Dims) -> list[TensorSpec]:
    """What every linear head derives: weights (width + 1, K), class means (K, D) and the mask
    (K,).
    """
    return [derived("head.weight", (width + 1, dims.slots), 1), *class_tensors(dims)]


def class_tensors(dims: Dims) -> list[TensorSpec]:
    """What every head derives: class means (K, D) and the mask (K,)."""
    return [
        derived("head.mean", (dims.slots, dims.features), 0),
        derived("head.active", (dims.slots,), 0, bound=1.0),
    ]


def evidence(name: str, shape: tuple[int, ...], class_axis: int | None) -> TensorSpec:
    """An additive sum over labelled samples."""
    return TensorSpec(
        name=name,
        dtype="float32",
        shape=shape,
        kind="evidence",
        merge="add",
        class_axis=class_axis,
        bound=1e9,
    )


def frozen(name: str, shape: tuple[int, ...], class_axis: int | None = None) -> TensorSpec:
    """Fixed at export. With a class axis it grows with ``class_slots``; nothing clears it, so where
    a class may be removed and its slot taken by another, let evidence speak for the class.
    """
    return TensorSpec(
        name=name,
        dtype="float32",
        shape=shape,
        kind="frozen",
        class_axis=class_axis,
        persist="never",
    )


def derived(
    name: str, shape: tuple[int, ...], class_axis: int | None, *, bound: float = 1e6
) -> TensorSpec:
    """Computed by a numeric from evidence, and never stored."""
    return TensorSpec(
        name=name,
        dtype="float32",
        shape=shape,
        kind="derived",
        class_axis=class_axis,
        bound=bound,
        persist="never",
    )


def statistic(
    name: str,
    shape: tuple[int, ...],
    *,
    bound: float = 1e6,
    class_axis: int | None = None,
    merge: Literal["mean", "replace"] = "mean",
    persist: Literal["checkpoint", "session"] = "checkpoint",
) -> TensorSpec:
    """What every condition has of its own, and a label-free method changes."""
    return TensorSpec(
        name=name,
        dtype="float32",
        shape=shape,
        kind="statistic",
        scope="domain",
        merge=merge,
        class_axis=class_axis,
        bound=bound,
        persist=persist,
    )


def as_tensors(values: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()}


def with_evidence(method: Learns, fixed: Arrays, data: FactoryData) -> Arrays:
    """``fixed`` tensors and the factory's evidence: the method's own ``learn``, run over the
    calibration data from zero.
    """
    zero = {s.name: torch.zeros(s.shape) for s in method.tensors(data.dims) if s.kind == "evidence"}
    state = {**as_tensors(fixed), **zero}
    for start in range(0, len(data.y), 1024):
        some = (
            torch.from_numpy(part[start : start + 1024])
            for part in (data.z, data.taps, data.y, data.sample_weight)
        )
        state |= method.learn(state, *some)
    return {**fixed, **{name: state[name].numpy() for name in zero}}


def with_derived(state: Values, numerics: Iterable[NumericSpec]) -> dict[str, Tensor]:
    """``state`` and what the numerics derive from it, in order."""
    state = dict(state)
    for numeric in numerics:
        given = (state[name].numpy() for name in numeric.reads)
        found = NUMERICS[numeric.numeric](*given, **numeric.arguments)
        state |= as_tensors(dict(zip(numeric.writes, found, strict=True)))
    return state
