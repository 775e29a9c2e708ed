"""Starts: the suite, its stubs, and what each paper promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.tuning import members
from edgeadapt.host.tuning.codecs import codec
from edgeadapt.host.tuning.deltas.kronecker import Kronecker, factors, kronecker_sum
from edgeadapt.host.tuning.deltas.low_rank import LowRank
from edgeadapt.host.tuning.sites import Site, sites_of
from edgeadapt.host.tuning.starts.context_oriented import ContextOriented
from edgeadapt.host.tuning.starts.explained_variance import ExplainedVariance
from edgeadapt.host.tuning.starts.kronecker_svd import KroneckerSVD
from edgeadapt.host.tuning.statistics import Statistics
from edgeadapt.testing import check_start
from edgeadapt.testing._tuning_stubs import start_stubs
from edgeadapt.testing._tuning_toy import Toy

TOY = Toy.made()
STARTS = [
    (ExplainedVariance(), LowRank()),
    (ContextOriented(), LowRank()),
    (ContextOriented(part="learn"), LowRank()),
    (KroneckerSVD(), Kronecker()),
    (KroneckerSVD(by="energy"), Kronecker()),
    (KroneckerSVD(by="elbow"), Kronecker()),
]
MATRICES = ["padded", "strided", "grouped", "pointwise", "wide", "narrow", "head"]
NONE = Statistics({})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def site_at(path: str) -> Site:
    return next(site for site in TOY.sites if site.path == path)


def moments(path: str) -> tuple[Site, Statistics, Tensor]:
    site = site_at(path)
    statistics = TOY.statistics(frozenset({"second_moment"}), (site,))
    return site, statistics, statistics.of("second_moment", site)


def test_every_start_that_a_recipe_can_name_is_checked() -> None:
    assert {start.name for start, _ in STARTS} == set(members.STARTS)
    with pytest.raises(AssertionError, match="it is for low_rank, not for kronecker"):
        check_start(ExplainedVariance(), Kronecker())


@pytest.mark.parametrize(("start", "delta"), STARTS, ids=str)
def test_every_start_keeps_the_promises_of_the_suite(start: Any, delta: Any) -> None:
    check_start(start, delta)


@pytest.mark.parametrize(("start", "delta"), STARTS, ids=str)
def test_every_stub_of_every_start_is_found_out(start: Any, delta: Any) -> None:
    for label, stub in start_stubs(start).items():
        try:
            check_start(stub, delta)
        except AssertionError as error:
            assert str(error).startswith(f"{start.name}: "), label
        else:
            pytest.fail(f"check_start passes although it {label}")


# -- Explained variance ----------------------------------------------------------------------------
def explained(down: Tensor, moment: Tensor) -> Tensor:
    """(groups,) share of the moment in the row space of ``down``."""
    rows = torch.linalg.qr(down.double().transpose(1, 2)).Q
    inside = rows.transpose(1, 2) @ moment.double() @ rows
    return inside.diagonal(dim1=1, dim2=2).sum(1) / moment.double().diagonal(dim1=1, dim2=2).sum(1)


@pytest.mark.parametrize("path", MATRICES)
def test_directions_are_orthonormal_and_explain_more_than_any_random_ones(path: str) -> None:
    site, statistics, moment = moments(path)
    values = ExplainedVariance()(site, 2, TOY.weights, statistics, seeded())
    gram = values["down"] @ values["down"].transpose(1, 2)
    assert torch.allclose(gram, torch.eye(2).expand_as(gram), atol=1e-5)
    assert not values["up"].any()
    best = explained(values["down"], moment)
    for seed in range(50):
        other = torch.randn(values["down"].shape, generator=seeded(seed))
        assert (best >= explained(other, moment) - 1e-9).all()
    assert (best > explained(other, moment) + 0.01).all()


def test_directions_of_a_convolution_are_those_of_its_patches() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False)).eval()
    x = torch.randn(16, 2, 6, 6, generator=seeded())
    x[:, 1] *= 0.01  # the second channel says next to nothing
    sites = sites_of(net, x)
    statistics = Statistics.collect(net, [(x, torch.zeros(16))], sites, {"second_moment"})
    weights = dict(net.named_parameters())
    down = ExplainedVariance()(sites[0], 3, weights, statistics, seeded())["down"]
    assert down[0, :, :9].norm() > 100 * down[0, :, 9:].norm()
    with torch.no_grad():  # a moment of patches gives the energy of the layer's own outputs
        outputs = net(x).square().mean((0, 2, 3))
    w = sites[0].matrix(weights["0.weight"].detach())[0]
    energy = (w @ statistics.of("second_moment", sites[0])[0] @ w.T).diagonal()
    assert torch.allclose(outputs, energy, rtol=1e-4)


# -- Context-oriented --------------------------------------------------------------------------
def energy(change: Tensor, moment: Tensor, weight: Tensor) -> float:
    """Share of the outputs' energy on calibration inputs that a part of the weight carries."""
    part = (change @ moment @ change.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum()
    return float(part / (weight @ moment @ weight.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum())


@pytest.mark.parametrize("groups", [1, 3])
def test_keep_takes_less_of_the_energy_than_plain_and_learn_more(groups: int) -> None:
    """Inputs lie mostly along few directions, in any basis."""
    site = Site("w", "conv", "w.weight", "", (32 * groups, 5, 3, 3), groups, 0.0, "", 0)
    g = seeded(3)
    basis = torch.linalg.qr(torch.randn(groups, 45, 45, generator=g)).Q
    moment = basis @ torch.diag(0.8 ** torch.arange(45.0)) @ basis.transpose(1, 2)
    w = {site.weight: torch.randn(site.shape, generator=g)}
    weight, moments = site.matrix(w[site.weight]), Statistics({("second_moment", "w"): moment})
    shares = {}
    for part in ("keep", "learn"):
        values = ContextOriented(part=part)(site, 4, w, moments, g)  # type: ignore[arg-type]
        shares[part] = energy(values["up0"] @ values["down0"], moment, weight)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    least = u[:, :, -4:] * s[:, None, -4:] @ vh[:, -4:]
    most = u[:, :, :4] * s[:, None, :4] @ vh[:, :4]
    assert shares["keep"] < 0.1 * energy(least, moment, weight)
    assert 1.5 * energy(most, moment, weight) < shares["learn"]
    assert shares["keep"] < 0.01 and shares["learn"] > 0.6


def test_what_was_taken_apart_is_the_weight() -> None:
    site, statistics, _ = moments("wide")
    whole = ContextOriented()(site, 12, TOY.weights, statistics, seeded())
    weight = site.matrix(TOY.weights[site.weight])
    assert torch.allclose(whole["up0"] @ whole["down0"], weight, atol=1e-4)
    with pytest.raises(InputError, match="'keep' or 'learn', got 'both'"):
        ContextOriented(part="both")  # type: ignore[arg-type]


# -- Kronecker SVD ---------------------------------------------------------------------------------
def planted(terms: int, groups: int = 2) -> tuple[Site, dict[str, Tensor]]:
    """A weight that is a sum of so many Kronecker products, each half as large as the one before,
    of orthogonal factors.
    """
    site = Site("w", "conv", "w.weight", "", (6 * groups, 2, 2, 2), groups, 0.0, "", 0)
    (m1, m2), (n1, n2) = factors(site)
    g = seeded(2)
    left, right = (
        torch.linalg.qr(torch.randn(groups, shape, terms, generator=g, dtype=torch.float64)).Q
        for shape in (m1 * n1, m2 * n2)
    )
    size = 0.5 ** torch.arange(terms)
    left = (left * size).transpose(1, 2).unflatten(2, (m1, n1))
    right = right.transpose(1, 2).unflatten(2, (m2, n2))
    return site, {site.weight: site.tensor(kronecker_sum(left, right)).float()}


def test_a_planted_sum_of_two_products_is_recovered_exactly() -> None:
    site, w = planted(2)
    values = KroneckerSVD()(site, 2, w, NONE, seeded())
    found = site.tensor(kronecker_sum(values["left0"], values["right0"]))
    assert torch.allclose(found, w[site.weight], atol=1e-6)
    one = KroneckerSVD()(site, 1, w, NONE, seeded())
    left = w[site.weight] - site.tensor(kronecker_sum(one["left0"], one["right0"]))
    assert left.norm() / w[site.weight].norm() == pytest.approx(0.5 / 1.25**0.5, abs=1e-4)


def test_a_plain_reshape_is_no_kronecker_svd() -> None:
    site, w = planted(1)
    (m1, m2), (n1, n2) = factors(site)
    plain = site.matrix(w[site.weight]).reshape(2, m1 * n1, m2 * n2)
    squares = torch.linalg.svdvals(plain) ** 2
    assert (squares[:, 0] / squares.sum(1) < 0.9).all()
    assert KroneckerSVD(by="energy", energy=0.999).terms(site, w) == 1


def test_terms_by_energy_and_by_elbow() -> None:
    site, w = planted(3)  # squared 1, 1/4, 1/16: shares .762, .952, 1
    terms = {share: KroneckerSVD("energy", share).terms(site, w) for share in (0.7, 0.9, 0.99, 1.0)}
    assert {share: terms[share] for share in (0.7, 0.9, 0.99)} == {0.7: 1, 0.9: 2, 0.99: 3}
    assert KroneckerSVD(by="size").terms(site, w) == min(6, 8)
    steep, flat = planted(1)[1], planted(4)[1]
    elbow = KroneckerSVD(by="elbow")
    assert elbow.terms(site, steep) == 1 < elbow.terms(site, flat)
    values = KroneckerSVD("energy", 0.7)(site, 3, w, NONE, seeded())
    assert values["left"].shape[1] == 3 and bool((values["left0"][:, 1:] == 0).all())
    assert bool((values["right"][:, 1:] != 0).all()) and bool((values["right"][:, :1] == 0).all())
    assert values["left0"][:, :1].any() and not values["left"].any()
    assert values["right"][:, 1:].abs().amin() > 0  # so that left gets a gradient
    for wrong in ({"by": "rank"}, {"energy": 0.0}, {"energy": 1.5}):
        with pytest.raises(InputError, match="kronecker_svd has"):
            KroneckerSVD(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "most"), [("float16", 0.002), ("8bit", 0.05), ("4bit", 0.3)])
def test_a_codec_rounds_what_was_learned_and_not_what_was_there(name: str, most: float) -> None:
    """Start and difference are rounded apart, and the start is taken away as it was rounded."""
    site, statistics, _ = moments("wide")
    draw, kind = seeded(1), codec(name)
    values = ContextOriented()(site, 4, TOY.weights, statistics, seeded())
    for key in ("up", "down"):
        values[key] = 0.01 * torch.randn(values[key].shape, generator=draw)
    rounded = {
        key: torch.from_numpy(kind.decode(kind.encode(value.numpy()), tuple(value.shape)))
        for key, value in values.items()
    }
    base = TOY.weights[site.weight]
    want = LowRank().merged(site, TOY.weights, values)[site.weight] - base
    got = LowRank().merged(site, TOY.weights, rounded)[site.weight] - base
    assert (got - want).norm() < most * want.norm()
    untouched = {**rounded, "up": 0 * values["up"], "down": 0 * values["down"]}
    assert torch.equal(LowRank().merged(site, TOY.weights, untouched)[site.weight], base)
