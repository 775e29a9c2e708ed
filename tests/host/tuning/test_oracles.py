"""The same from PEFT, which is in no extra: ``pip install peft==0.21.2`` to run these."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeadapt.host.tuning.deltas.kronecker import Kronecker
from edgeadapt.host.tuning.deltas.low_rank import LowRank
from edgeadapt.host.tuning.network import TunedNetwork
from edgeadapt.host.tuning.plan import uniform_plan
from edgeadapt.host.tuning.sites import Site, sites_of
from edgeadapt.host.tuning.starts.context_oriented import ContextOriented
from edgeadapt.host.tuning.starts.explained_variance import ExplainedVariance
from edgeadapt.host.tuning.statistics import Statistics

peft = pytest.importorskip("peft")
RANK = 4


class Network(nn.Module):
    """(B, 12) to (B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 20), nn.Linear(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).tanh())
        return out


class Convolutions(nn.Module):
    """(B, 3, 8, 8) to (B, 6, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).tanh())
        return out


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs() -> Tensor:
    """(512, 12) of mean zero along directions of very different size, in no special basis."""
    basis = torch.linalg.qr(torch.randn(12, 12, generator=seeded(1))).Q
    x = torch.randn(512, 12, generator=seeded(2)) * 0.7 ** torch.arange(12) @ basis.T
    return x - x.mean(0)


def first_site(net: nn.Module, x: Tensor) -> tuple[Site, Statistics, dict[str, Tensor]]:
    site = sites_of(net, x[:2])[0]
    statistics = Statistics.collect(net, [(x, x)], (site,), {"second_moment"})
    return site, statistics, dict(net.named_parameters())


def layers_of(model: Any) -> dict[str, Any]:
    return {path: model.base_model.model.get_submodule(path) for path in ("first", "second")}


@pytest.mark.parametrize("kind", [Network, Convolutions])
@pytest.mark.parametrize("by_rank", [False, True])
def test_low_rank_computes_what_lora_computes(kind: type[nn.Module], by_rank: bool) -> None:
    x = torch.randn(5, *((12,) if kind is Network else (3, 8, 8)), generator=seeded(3))
    config = peft.LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=["first", "second"], use_rslora=by_rank
    )
    model = peft.get_peft_model(made(kind), config).eval()
    delta = LowRank(scale=RANK, by_rank=True) if by_rank else LowRank()
    net = made(kind)
    sites = sites_of(net, x)
    values = {}
    for site in sites:
        layer = layers_of(model)[site.path]
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        nn.init.normal_(up, generator=seeded(4))
        values[f"{site.path}:down"] = down.detach().reshape(1, RANK, -1)
        values[f"{site.path}:up"] = up.detach().reshape(1, -1, RANK)
    tuned = TunedNetwork(net, uniform_plan(delta, sites, RANK, {}), values).eval()
    with torch.no_grad():
        expected = model(x)
        assert not torch.allclose(net(x), expected, atol=0.1)
        assert (tuned(x) - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_kronecker_product_computes_what_lokr_computes() -> None:
    config = peft.LoKrConfig(r=64, alpha=64, target_modules=["first", "second"])
    model = peft.get_peft_model(made(Network), config).eval()
    net, x = made(Network), inputs()[:7]
    sites = sites_of(net, x)
    weights = dict(net.named_parameters())
    merged = {}
    for site in sites:
        layer = layers_of(model)[site.path]
        left, right = layer.lokr_w1["default"], layer.lokr_w2["default"]
        nn.init.normal_(left, generator=seeded(5))
        p = {"left": left.detach()[None, None], "right": right.detach()[None, None]}
        merged |= Kronecker().merged(site, weights, p)
    with torch.no_grad():
        expected = model(x)
        found = torch.func.functional_call(net, merged, (x,))
        assert not torch.allclose(net(x), expected, atol=0.1)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_directions_are_those_of_eva() -> None:
    from peft.tuners.lora.eva import initialize_lora_eva_weights

    x = inputs()
    config = peft.LoraConfig(
        r=RANK,
        target_modules=["first"],
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=1.0),
    )
    model = peft.get_peft_model(made(Network), config)
    initialize_lora_eva_weights(
        model,
        [x] * 4,
        forward_fn=lambda network, batch: network(batch),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        show_progress_bar=False,
    )
    theirs = model.base_model.model.first.lora_A["default"].weight.detach()
    site, statistics, weights = first_site(made(Network), x)
    ours = ExplainedVariance()(site, RANK, weights, statistics, seeded(0))["down"][0]
    assert torch.allclose((ours * theirs).sum(1).abs(), torch.ones(RANK), atol=1e-4)


@pytest.mark.parametrize(("part", "method"), [("keep", "kpm"), ("learn", "ipm")])
def test_parts_of_a_weight_are_those_of_corda(part: Any, method: str) -> None:
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    x, net = inputs(), made(Network)
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=["first"],
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method=method),
    )
    preprocess_corda(net, config, run_model=lambda: net(x[None]))
    layer = peft.get_peft_model(net, config).base_model.model.first
    theirs = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    site, statistics, weights = first_site(made(Network), x)
    values = ContextOriented(part=part)(site, RANK, weights, statistics, seeded(0))
    ours = (values["up"] @ values["down"])[0]
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
