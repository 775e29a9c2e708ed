"""Deltas: the suite, its stubs, published counts, and what each paper promises."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from support.vision_transformer import vit_sites
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.tuning import members
from edgeadapt.host.tuning.deltas.kronecker import Kronecker, factors, kronecker_sum
from edgeadapt.host.tuning.deltas.low_rank import MOST, LowRank
from edgeadapt.host.tuning.deltas.residual_scale import ResidualScale
from edgeadapt.host.tuning.deltas.scale_shift import ScaleShift
from edgeadapt.host.tuning.deltas.two_sided import TwoSided
from edgeadapt.host.tuning.deltas.union import Union
from edgeadapt.host.tuning.deltas.whole import Bias, Full, Head
from edgeadapt.host.tuning.network import TunedNetwork
from edgeadapt.host.tuning.plan import numbers_at, planned, uniform_plan
from edgeadapt.host.tuning.sites import Site, sites_of
from edgeadapt.testing import check_delta
from edgeadapt.testing._tuning_stubs import delta_stubs
from edgeadapt.testing._tuning_toy import Toy

TOY = Toy.made()
DELTAS = [
    Bias(),
    Full(),
    ScaleShift(),
    ResidualScale(),
    LowRank(),
    LowRank(scale=2.0, by_rank=True),
    TwoSided(),
    TwoSided(after=1.0),
    Kronecker(),
    Union((LowRank(), Bias())),
]
LINEAR = Site("layer", "linear", "layer.weight", "layer.bias", (6, 5), 1, 0.0, "", 30)


def named(delta: Any) -> str:
    return str(delta)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy_site(path: str) -> Site:
    return next(site for site in TOY.sites if site.path == path)


def random_weights(site: Site) -> dict[str, Tensor]:
    g = seeded(9)
    found = {site.weight: torch.randn(site.shape, generator=g)}
    return found | ({site.bias: torch.randn(site.channels, generator=g)} if site.bias else {})


def random_numbers(delta: Any, site: Site, size: int) -> dict[str, Tensor]:
    g = seeded(8)
    return {n: torch.randn(s, generator=g) for n, s in delta.shapes(site, size).items()}


def test_every_delta_that_a_recipe_can_name_is_checked() -> None:
    assert {delta.name for delta in DELTAS} | {Head.name} == set(members.DELTAS)


@pytest.mark.parametrize("delta", DELTAS, ids=named)
def test_every_delta_keeps_the_promises_of_the_suite(delta: Any) -> None:
    check_delta(delta)


def assert_stubs_fail(delta: Any) -> None:
    for label, stub in delta_stubs(delta).items():
        try:
            check_delta(stub)
        except AssertionError as error:
            assert str(error).startswith(f"{delta.name}: "), label
        else:
            pytest.fail(f"check_delta passes although {label}")


@pytest.mark.parametrize("delta", [LowRank(), ScaleShift()], ids=named)
def test_every_stub_of_a_delta_is_found_out(delta: Any) -> None:
    assert_stubs_fail(delta)


@pytest.mark.slow
@pytest.mark.parametrize("delta", DELTAS, ids=named)
def test_every_stub_of_every_delta_is_found_out(delta: Any) -> None:
    assert_stubs_fail(delta)


def test_a_head_alone_changes_no_site_and_trains_the_classifier() -> None:
    assert not any(Head().sizes(site) for site in TOY.sites)
    whole = {"head.weight": (5, 12), "head.bias": (5,)}
    plan = uniform_plan(Head(), TOY.sites, 4, whole)
    values = {name: TOY.weights[name] for name in whole}
    tuned = TunedNetwork(TOY.network, plan, values)
    assert (plan.numbers, plan.numbers_whole) == (0, 65)
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == 65
    assert torch.equal(tuned.eval()(TOY.x), TOY.network(TOY.x))


# -- Published counts, on a ViT-B/16 without weights -------------------------------------------
def count(delta: Any, sites: tuple[Site, ...], size: int) -> int:
    return uniform_plan(delta, sites, size, {}).numbers


def test_numbers_of_a_vision_transformer_are_the_published_ones() -> None:
    sites = vit_sites()
    attention = vit_sites("*.q", "*.v")
    assert count(ScaleShift(), sites, 1) == 205_824  # SSF: 0.205 M
    assert count(Bias(), sites, 1) == 102_912  # BitFit: 0.10 M
    assert count(LowRank(), attention, 8) == 294_912  # LoRA on q and v: 0.29 M
    assert count(LowRank(), attention, 4) == 147_456
    # DiffFit: biases, the weights of norms, and a scale at the two ends of branches
    assert count(ResidualScale(), sites, 1) == 102_912 + 25 * 768 + 24 * 768


def test_a_full_delta_has_as_many_numbers_as_the_network() -> None:
    parameters = sum(value.numel() for value in TOY.network.parameters())
    assert count(Full(), TOY.sites, 1) == parameters


# -- Low rank ----------------------------------------------------------------------------------
def test_a_low_rank_change_has_that_rank_in_every_group() -> None:
    site = toy_site("grouped")
    p = random_numbers(LowRank(), site, 2)
    w = random_weights(site)
    change = site.matrix(LowRank().merged(site, w, p)[site.weight] - w[site.weight])
    assert change.shape == (3, 4, 36)
    assert torch.linalg.matrix_rank(change.double(), rtol=1e-5).tolist() == [2, 2, 2]


def test_low_rank_offers_no_more_numbers_than_the_matrix_has() -> None:
    assert LowRank().sizes(toy_site("depthwise")) == LowRank().sizes(toy_site("norm")) == ()
    for site in TOY.sites:
        for size in LowRank().sizes(site):
            assert numbers_at(LowRank(), site, size) < torch.Size(site.shape).numel()
    wide = Site("w", "linear", "w.weight", "", (999, 999), 1, 0.0, "", 0)
    assert LowRank().sizes(wide) == tuple(range(MOST + 1))


def test_a_scale_by_rank_divides_by_the_root_of_the_rank() -> None:
    p, w = random_numbers(LowRank(), LINEAR, 2), random_weights(LINEAR)
    plain = LowRank(scale=3.0).merged(LINEAR, w, p)[LINEAR.weight] - w[LINEAR.weight]
    scaled = LowRank(3.0, by_rank=True).merged(LINEAR, w, p)[LINEAR.weight] - w[LINEAR.weight]
    assert torch.allclose(scaled * 2**0.5, plain, atol=1e-5)
    assert torch.allclose(plain, 3.0 * (p["up"] @ p["down"])[0], atol=1e-5)
    with pytest.raises(InputError, match="scale above 0, got 0"):
        LowRank(scale=0)


# -- Scale and shift, and the residual preset -----------------------------------------------------
@pytest.mark.parametrize("path", ["padded", "grouped", "depthwise", "norm", "layer_norm", "wide"])
def test_scale_and_shift_folded_is_scale_and_shift_behind_the_layer(path: str) -> None:
    site = toy_site(path)
    p = random_numbers(ScaleShift(), site, 1)
    layer = TOY.network.get_submodule(path)
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, x, y: seen.extend((x[0], y)))
    with torch.no_grad():
        TOY.network(TOY.x)
        handle.remove()
        x, y = seen
        merged = ScaleShift().merged(site, TOY.weights, p)
        own = {name.removeprefix(f"{path}."): value for name, value in merged.items()}
        folded = torch.func.functional_call(layer, own, (x,))
    shape = (-1, 1, 1) if x.dim() == 4 else (-1,)
    behind = y * (1.0 + p["scale"]).reshape(shape) + p["shift"].reshape(shape)
    assert torch.allclose(folded, behind, rtol=1e-5, atol=1e-5)


def test_scale_and_shift_is_refused_before_a_padded_convolution() -> None:
    """A scale folds behind a layer alone: a convolution pads what a shift in front of it moved."""
    conv = nn.Conv2d(2, 3, 3, padding=1)
    x, shift = torch.randn(1, 2, 5, 5, generator=seeded()), 0.7
    with torch.no_grad():
        moved = conv(x + shift)
        bias = conv.bias + shift * conv.weight.sum((1, 2, 3))
        folded = nn.functional.conv2d(x, conv.weight, bias, padding=1)
    assert torch.allclose(folded[..., 1:-1, 1:-1], moved[..., 1:-1, 1:-1], atol=1e-5)
    assert not torch.allclose(folded, moved, atol=0.05)
    assert not ScaleShift().sizes(toy_site("strided"))  # no bias to hold a shift


def test_the_residual_preset_trains_biases_norms_and_ends_of_branches_alone() -> None:
    plan = planned(
        ResidualScale(),
        [site for site in TOY.sites if ResidualScale().sizes(site)],
        [1 for site in TOY.sites if ResidualScale().sizes(site)],
        {},
    )
    assert set(plan.shapes) == {
        *(f"{path}:shift" for path in ("padded", "grouped", "depthwise", "wide", "head")),
        *(f"{path}:{name}" for path in ("norm", "norm_strided", "layer_norm", "pointwise", "narrow")
          for name in ("scale", "shift")),
    }  # fmt: skip


def test_a_folded_scale_is_the_scale_of_a_whole_branch() -> None:
    site = toy_site("narrow")
    p = random_numbers(ResidualScale(), site, 1)
    w = random_weights(site)
    found = ResidualScale().merged(site, w, p)
    x = torch.randn(7, 20, generator=seeded(1))
    branch = nn.functional.linear(x, w[site.weight], w[site.bias] + p["shift"])
    folded = nn.functional.linear(x, found[site.weight], found[site.bias])
    assert torch.allclose(folded, (1.0 + p["scale"]) * branch, atol=1e-5)


# -- Two-sided -------------------------------------------------------------------------------------
def two_sided(after: float, site: Site, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Change of the weight, the weight, and the change of the bias."""
    delta, w = TwoSided(after), random_weights(site)
    found = delta.merged(site, w, random_numbers(delta, site, size))
    bias = found.get(site.bias, w[site.bias]) - w[site.bias]
    return site.matrix(found[site.weight] - w[site.weight]), site.matrix(w[site.weight]), bias


def test_two_sided_computes_both_branches() -> None:
    delta, w = TwoSided(), random_weights(LINEAR)
    p = random_numbers(delta, LINEAR, 2)
    found = delta.merged(LINEAR, w, p)
    x = torch.randn(7, 5, generator=seeded(1))
    y = nn.functional.linear(x, w[LINEAR.weight], w[LINEAR.bias])
    beside = x @ p["down"][0].T @ p["up"][0].T
    behind = y @ p["down_after"][0].T @ p["up_after"][0].T
    folded = nn.functional.linear(x, found[LINEAR.weight], found[LINEAR.bias])
    assert torch.allclose(folded, y + beside + behind, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["padded", "grouped", "pointwise", "wide"])
def test_without_a_branch_behind_it_is_low_rank_exactly(path: str) -> None:
    site, w = toy_site(path), random_weights(toy_site(path))
    delta, low = TwoSided(after=0.0), LowRank()
    assert delta.sizes(site) == low.sizes(site)
    start, expected = delta.start(site, 2, w, seeded()), low.start(site, 2, w, seeded())
    assert set(start) == set(expected)
    assert all(torch.equal(start[name], expected[name]) for name in start)
    p = random_numbers(low, site, 2)
    ours, theirs = delta.merged(site, w, p), low.merged(site, w, p)
    assert set(ours) == set(theirs) == {site.weight}
    assert torch.equal(ours[site.weight], theirs[site.weight])


@pytest.mark.parametrize("size", [1, 2])
def test_a_branch_behind_stays_in_the_row_space_of_the_weight(size: int) -> None:
    site = Site("layer", "linear", "layer.weight", "layer.bias", (6, 9), 1, 0.0, "", 54)
    change, weight, bias = two_sided(1.0, site, size)
    assert torch.linalg.matrix_rank(change.double(), rtol=1e-5).item() == size
    rows = torch.linalg.qr(weight[0].double().T).Q  # (9, 6)
    outside = change[0].double() - change[0].double() @ rows @ rows.T
    assert outside.norm() < 1e-5 * change.norm()
    assert bias.any()
    beside, _, still = two_sided(0.0, site, size)
    inside = beside[0].double() @ rows @ rows.T
    assert (beside[0] - inside).norm() > 0.1 * beside.norm() and not still.any()


def test_sizes_of_both_branches_never_shrink() -> None:
    for after in (0.0, 0.29, 0.5, 0.7, 1.0):
        ranks = [TwoSided(after)._ranks(size) for size in range(65)]
        assert all(sum(both) == size for size, both in enumerate(ranks))
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(ranks))
    assert TwoSided(0.29)._ranks(100) == (71, 29)
    assert [TwoSided()._ranks(size) for size in (1, 2, 3)] == [(1, 0), (1, 1), (2, 1)]
    narrow = Site("w", "linear", "w.weight", "", (2, 40), 1, 0.0, "", 0)
    assert TwoSided(after=1.0).sizes(narrow) == (0, 1, 2)
    with pytest.raises(InputError, match=r"after from 0 to 1, got 1\.5"):
        TwoSided(after=1.5)


# -- Kronecker -------------------------------------------------------------------------------------
def test_the_change_is_the_sum_of_kronecker_products() -> None:
    for path in ("padded", "grouped", "depthwise", "wide", "place"):
        site = toy_site(path)
        p = random_numbers(Kronecker(), site, 2)
        expected = torch.stack([
            sum(torch.kron(a, b) for a, b in zip(left, right, strict=True))
            for left, right in zip(p["left"], p["right"], strict=True)
        ])  # fmt: skip
        assert torch.allclose(kronecker_sum(p["left"], p["right"]), expected, atol=1e-5)
        assert expected.shape == site.matrix_shape


def test_factors_are_nearest_to_the_roots_and_about_equal() -> None:
    def of(m: int, n: int) -> Any:
        return factors(Site("w", "linear", "w.weight", "", (m, n), 1, 0.0, "", 0))

    assert of(768, 768) == ((24, 32), (32, 24))
    assert of(12, 20) == ((3, 4), (5, 4))
    assert of(7, 16) == ((1, 7), (4, 4))
    big = Site("w", "linear", "w.weight", "", (768, 3072), 1, 0.0, "", 0)
    assert numbers_at(Kronecker(), big, 1) == 24 * 64 + 32 * 48
    assert numbers_at(Kronecker(), big, 1) < numbers_at(LowRank(), big, 1)


# -- Unions ----------------------------------------------------------------------------------------
def test_a_union_is_the_sum_of_its_parts_and_counts_add() -> None:
    parts = (LowRank(), ScaleShift(), Bias())
    both = Union(parts)
    for path in ("padded", "norm", "strided", "place", "wide"):
        site, w = toy_site(path), random_weights(toy_site(path))
        for size in both.sizes(site)[1:]:
            held = {
                part: max(one for one in part.sizes(site) if one <= size)
                for part in parts
                if part.sizes(site)
            }
            counts = [numbers_at(part, site, own) for part, own in held.items()]
            assert numbers_at(both, site, size) == sum(counts)
            p = random_numbers(both, site, size)
            found = both.merged(site, w, p)
            total = {name: torch.zeros_like(value) for name, value in w.items()}
            for part in held:
                first = f"{part.name}."
                own = {n.removeprefix(first): v for n, v in p.items() if n.startswith(first)}
                for name, value in part.merged(site, w, own).items():
                    total[name] += value - w[name]
            for name, change in total.items():
                assert torch.allclose(found.get(name, w[name]) - w[name], change, atol=1e-5)


def test_a_union_of_one_is_that_one_and_equal_names_are_refused() -> None:
    site, w = toy_site("wide"), random_weights(toy_site("wide"))
    p = random_numbers(LowRank(), site, 3)
    one = Union((LowRank(),)).merged(site, w, {f"low_rank.{k}": v for k, v in p.items()})
    assert torch.equal(one[site.weight], LowRank().merged(site, w, p)[site.weight])
    for parts in ((), (LowRank(), LowRank(scale=2.0))):
        with pytest.raises(InputError, match="deltas of different names"):
            Union(parts)


def test_a_delta_does_not_care_how_often_a_site_runs() -> None:
    """A layer that runs twice is one site, and its change is made twice."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    net = Twice().eval()
    x = torch.randn(3, 4, generator=seeded())
    (site,) = sites_of(net, x)
    assert site.macs == 32
    plan = uniform_plan(Bias(), (site,), 1, {})
    tuned = TunedNetwork(net, plan, {"layer:shift": torch.ones(4)}).eval()
    with torch.no_grad():
        expected = net.layer(net.layer(x) + 1.0) + 1.0
        assert torch.allclose(tuned(x), expected, atol=1e-6)
