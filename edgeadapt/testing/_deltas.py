"""The suite of deltas: sizes and shapes, where they start, that they learn, and that they merge."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from edgeadapt.errors import CompileError
from edgeadapt.host.tuning.network import TunedNetwork
from edgeadapt.host.tuning.plan import Plan, key_of, numbers_at, planned
from edgeadapt.host.tuning.sites import Site
from edgeadapt.testing._tuning_toy import CLASSES, Toy, base_nodes, compiled

Values = dict[str, Tensor]
_STEPS, _RATE, _NOISE = 60, 0.02, 0.2


def run_delta_suite(delta: Any) -> None:
    """See :func:`edgeadapt.testing.check_delta`.

    Raises:
        AssertionError: ``<delta>: <function>: <property>``.
    """
    try:
        _run(delta)
    except AssertionError as error:
        raise AssertionError(f"{getattr(delta, 'name', type(delta).__name__)}: {error}") from error


def applied(delta: Any, toy: Toy) -> tuple[Site, ...]:
    """The sites of the toy that the delta offers sizes for.

    Raises:
        AssertionError: there is none, or sizes are not increasing from 0.
    """
    for site in toy.sites:
        sizes = delta.sizes(site)
        if sizes:
            increasing = all(a < b for a, b in itertools.pairwise(sizes))
            _require(
                sizes[0] == 0 and increasing and len(sizes) > 1,
                f"sizes: from 0 on, increasing, at least two; {site.path} has {sizes}",
            )
    found = tuple(site for site in toy.sites if delta.sizes(site))
    _require(bool(found), "sizes: it applies to a site of some kind")
    return found


def small_sizes(delta: Any, sites: tuple[Site, ...]) -> list[int]:
    """The second size above 0 of every site, or the only one."""
    return [delta.sizes(site)[:3][-1] for site in sites]


def merged_at(delta: Any, site: Site, w: Values, p: Values) -> Values:
    """What a merge returns, after what every merge promises.

    Raises:
        AssertionError: it writes to what it is given, returns other names or shapes, or is not the
            same twice.
    """
    own, weights = {k: v.clone() for k, v in p.items()}, {k: v.clone() for k, v in w.items()}
    found = delta.merged(site, weights, own)
    for given, before, what in ((weights, w, "the base"), (own, p, "its numbers")):
        _require(_same(given, before), f"merged: it changes {what} in place at {site.path}")
    names = {site.weight, site.bias} - {""}
    _require(
        set(found) <= names,
        f"merged: returns {sorted(set(found) - names)}, not of {site.path}",
    )
    for name, value in found.items():
        _require(
            value.shape == w[name].shape and value.dtype == w[name].dtype,
            f"merged: {name} is {value.dtype}{list(value.shape)}, not as the base has it",
        )
    _require(_same(found, delta.merged(site, w, p)), f"merged: differs when repeated, {site.path}")
    return {name: value.clone() for name, value in found.items()}


def check_values(delta: Any, site: Site, size: int, values: Values) -> None:
    """First values have the shapes that the delta declares, and are float32 and finite.

    Raises:
        AssertionError: they do not.
    """
    for name, shape in delta.shapes(site, size).items():
        _require(name in values, f"start: gives no {name} of {site.path}")
        _require(
            tuple(values[name].shape) == tuple(shape) and values[name].dtype == torch.float32,
            f"start: {name} of {site.path} is {values[name].dtype}{list(values[name].shape)}, at"
            f" size {size} declared float32{list(shape)}",
        )
    for name, value in values.items():
        finite = bool(torch.isfinite(value).all())
        _require(finite, f"start: {name} of {site.path} is finite")


def check_at_base(delta: Any, site: Site, w: Values, p: Values, bound: float) -> None:
    """The merge with first values gives the base.

    Raises:
        AssertionError: it does not, by more than ``bound`` of its largest value.
    """
    for name, value in merged_at(delta, site, w, p).items():
        error = float((value - w[name]).abs().max() / w[name].abs().max().clamp(min=1e-6))
        _require(error <= bound, f"start: {name} is the base's; it differs by {error:.1e}")


def check_same_output(toy: Toy, delta: Any, sites: tuple[Site, ...], p: Values, b: float) -> None:
    """The network with first values computes what the base computes.

    Raises:
        AssertionError: outputs differ by more than ``b`` of the largest.
    """
    plan = planned(delta, sites, small_sizes(delta, sites), {})
    with torch.no_grad():
        before = toy.network(toy.x)
        after = TunedNetwork(toy.network, plan, p).eval()(toy.x)
    error = float((after - before).abs().max() / before.abs().max())
    _require(error <= b, f"start: outputs are the base's; they differ by {error:.1e}")


@dataclass(frozen=True)
class _Subject:
    """A delta at every site that it applies to, at a small size."""

    delta: Any
    toy: Toy
    plan: Plan
    values: Values

    def tuned(self, values: Values | None = None) -> TunedNetwork:
        return TunedNetwork(self.toy.network, self.plan, values or self.values).eval()

    @property
    def moved(self) -> Values:
        """First values with noise on everything that is trained."""
        noise = _seeded(11)
        return {
            name: value + _NOISE * torch.randn(value.shape, generator=noise)
            if name in self.plan.shapes
            else value
            for name, value in self.values.items()
        }


def _run(delta: Any) -> None:
    toy = Toy.made()
    sites = applied(delta, toy)
    _check_sizes(delta, toy, sites)
    plan = planned(delta, sites, small_sizes(delta, sites), {})
    values = {
        key_of(site, name): value
        for site, size in zip(plan.sites, plan.sizes, strict=True)
        for name, value in delta.start(site, size, toy.weights, _seeded(3)).items()
    }
    subject = _Subject(delta, toy, plan, values)
    check_same_output(toy, delta, sites, values, 1e-6)
    _check_gradients(subject)
    _check_learns(subject)
    _check_merges(subject)


def _check_sizes(delta: Any, toy: Toy, sites: tuple[Site, ...]) -> None:
    """Shapes, first values and the merge at a small and the largest size."""
    w = toy.weights
    traced: set[str] = set()
    for site in sites:
        sizes = delta.sizes(site)
        counts = [numbers_at(delta, site, size) for size in sizes]
        _require(
            all(a < b for a, b in itertools.pairwise(counts)),
            f"shapes: a larger size trains more numbers; {site.path} has {counts[:6]}",
        )
        for size in {sizes[:3][-1], sizes[-1]}:
            values = delta.start(site, size, w, _seeded(3))
            check_values(delta, site, size, values)
            again = delta.start(site, size, w, _seeded(3))
            _require(_same(values, again), f"start: the same seed gives the same, {site.path}")
            check_at_base(delta, site, w, values, 1e-6)
        if site.kind not in traced:
            traced.add(site.kind)
            _check_traceable(delta, site, w, values)


def _check_traceable(delta: Any, site: Site, w: Values, p: Values) -> None:
    def merge(numbers: Values) -> Values:
        found: Values = delta.merged(site, w, numbers)
        return found

    try:
        traced = make_fx(merge)(p)
    except Exception as error:
        raise AssertionError(f"merged: it can be traced; {error}") from error
    other = {name: value + 0.1 if value.is_floating_point() else value for name, value in p.items()}
    same = all(
        torch.allclose(value, traced(other)[name], atol=1e-6)
        for name, value in merge(other).items()
    )
    _require(same, f"merged: its trace computes the same, {site.path}")


def _check_gradients(subject: _Subject) -> None:
    """All trained numbers count and get gradients within two steps; the base gets none."""
    tuned = subject.tuned()
    trained = dict(tuned.named_parameters())
    own = {name: value for name, value in trained.items() if value.requires_grad}
    count, toy = sum(value.numel() for value in own.values()), subject.toy
    declared = sum(map(math.prod, subject.plan.shapes.values()))
    _require(
        count == subject.plan.numbers == declared,
        f"shapes: {declared} numbers are declared, {count} are trained",
    )
    optimiser = torch.optim.Adam(own.values(), lr=_RATE)
    moved: set[str] = set()
    for _ in range(2):
        optimiser.zero_grad()
        loss = functional.cross_entropy(tuned(toy.x), toy.y)
        _require(loss.requires_grad, "merged: its numbers get gradients")
        torch.autograd.backward(loss)
        moved |= {
            name for name, value in own.items() if value.grad is not None and value.grad.any()
        }
        optimiser.step()
    _require(not set(own) - moved, f"merged: {sorted(set(own) - moved)[:3]} have no gradient")
    of_base = [name for name, value in toy.network.named_parameters() if value.grad is not None]
    _require(not of_base, f"merged: {of_base[:3]} of the base have gradients")


def _check_learns(subject: _Subject) -> None:
    """A change that the delta itself can make is found again."""
    toy = subject.toy
    with torch.no_grad():
        goal = subject.tuned(subject.moved)(toy.x)
        change = float((goal - toy.network(toy.x)).abs().max())
    _require(goal.shape == (len(toy.x), CLASSES) and change > 1e-3, "merged: it reads its numbers")
    tuned = subject.tuned()
    numbers = [value for value in tuned.parameters() if value.requires_grad]
    optimiser = torch.optim.Adam(numbers, lr=_RATE)
    losses = []
    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss = functional.mse_loss(tuned(toy.x), goal)
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    _require(
        losses[-1] <= 0.5 * losses[0],
        f"merged: {_STEPS} steps halve the loss of a planted change; {losses[0]:.3g} to"
        f" {losses[-1]:.3g}",
    )


def _check_merges(subject: _Subject) -> None:
    """The merged network is the tuned one, bit for bit, and costs what the base costs."""
    toy = subject.toy
    before = {name: value.clone() for name, value in toy.network.state_dict().items()}
    tuned = subject.tuned(subject.moved)
    merged = tuned.merge()
    with torch.no_grad():
        same = torch.equal(tuned(toy.x), merged(toy.x))
    _require(same, "merged: the merged network computes the same, bit for bit")
    _require(_same(before, toy.network.state_dict()), "merged: the base stays as it was")
    try:
        graph = compiled(subject.delta.name, merged)
    except CompileError as error:
        raise AssertionError(f"merged: the merged network compiles; {error}") from error
    _require(
        graph.nodes == base_nodes(),
        f"merged: the graph has as many nodes as the base's {base_nodes()}, not {graph.nodes}",
    )


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _same(a: Any, b: Any) -> bool:
    """Bit for bit, name by name."""
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


__all__ = [
    "applied",
    "check_at_base",
    "check_same_output",
    "check_values",
    "merged_at",
    "run_delta_suite",
    "small_sizes",
]
