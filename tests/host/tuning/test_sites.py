"""Sites: every kind of module, in the order in which they run, with what they cost."""

from __future__ import annotations

import pytest
import torch
from support.vision_transformer import vit_sites
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeadapt.errors import InputError
from edgeadapt.host.encoders.networks import SmallResidual
from edgeadapt.host.tuning.sites import sites_of
from edgeadapt.testing._tuning_toy import Toy

TOY = Toy.made()
OF = {site.path: site for site in TOY.sites}


def test_the_kinds_of_a_network_and_their_names() -> None:
    kinds = {path: site.kind for path, site in OF.items()}
    assert kinds == {
        "padded": "conv",
        "norm": "norm",
        "strided": "conv",
        "norm_strided": "norm",
        "grouped": "conv",
        "depthwise": "conv",
        "pointwise": "conv",
        "place": "embedding",
        "layer_norm": "norm",
        "wide": "linear",
        "narrow": "linear",
        "head": "linear",
    }
    parameters = dict(TOY.network.named_parameters())
    names = [name for site in TOY.sites for name in (site.weight, site.bias) if name]
    assert sorted(names) == sorted(parameters)
    assert all(site.shape == parameters[site.weight].shape for site in TOY.sites)
    assert [path for path, site in OF.items() if not site.bias] == ["strided", "place"]


def test_other_kinds_of_layers() -> None:
    net = nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1),
        nn.GroupNorm(2, 6),
        nn.ConvTranspose1d(6, 4, 2),
        nn.RMSNorm(9),
        nn.BatchNorm1d(4, affine=False),
        nn.LayerNorm((4, 9)),
        nn.MultiheadAttention(9, 3, batch_first=True),
    ).eval()

    class Run(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            for layer in net[:-1]:
                x = layer(x)
            return net[-1](x, x, x, need_weights=True)[0]

    sites = sites_of(Run().eval(), torch.randn(2, 4, 8))
    found = {site.path.removeprefix("net."): (site.kind, site.channels) for site in sites}
    assert found == {
        "0": ("conv", (6,)),
        "1": ("norm", (6,)),
        "3": ("norm", (9,)),
        "5": ("norm", (4, 9)),
    }  # neither transposed convolutions nor what an attention layer holds itself
    assert sites[0].matrix_shape == (1, 6, 12) and sites[3].matrix_shape == (1, 36, 1)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("padded", (1, 8, 27)),
        ("grouped", (3, 4, 36)),
        ("depthwise", (12, 1, 9)),
        ("wide", (1, 20, 12)),
        ("norm", (1, 8, 1)),
        ("place", (1, 16, 12)),
    ],
)
def test_a_weight_is_a_matrix_a_group(path: str, shape: tuple[int, int, int]) -> None:
    site, weight = OF[path], TOY.weights[OF[path].weight]
    matrix = site.matrix(weight)
    assert matrix.shape == site.matrix_shape == shape
    assert torch.equal(site.tensor(matrix), weight)
    value = torch.arange(1.0, torch.Size(site.channels).numel() + 1).reshape(site.channels)
    scaled = weight * site.per_channel(value)
    axis = -1 if site.kind == "embedding" else 0
    assert torch.equal(scaled.select(axis, 2), weight.select(axis, 2) * 3.0)


@pytest.mark.parametrize("path", ["padded", "strided", "grouped", "depthwise", "pointwise"])
def test_a_matrix_of_each_group_is_what_the_convolution_multiplies_with(path: str) -> None:
    layer, site = TOY.network.get_submodule(path), OF[path]
    assert isinstance(layer, nn.Conv2d)
    x = torch.randn(2, layer.in_channels, 6, 6, generator=torch.Generator().manual_seed(1))
    patches = nn.functional.unfold(x, layer.kernel_size, 1, layer.padding, layer.stride)
    groups, _, n = site.matrix_shape
    product = site.matrix(layer.weight) @ patches.unflatten(1, (groups, n))
    with torch.no_grad():
        expected = nn.functional.conv2d(
            x, layer.weight, None, layer.stride, layer.padding, 1, layer.groups
        )
    assert torch.allclose(
        product.flatten(1, 2).unflatten(2, expected.shape[2:]), expected, atol=1e-5
    )


def test_sites_come_in_the_order_in_which_they_run() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(3, 2), nn.Linear(4, 3)
            self.unused = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x))
            return out

    sites = sites_of(Backwards().eval(), torch.zeros(2, 4))
    assert [site.path for site in sites] == ["first", "last"]
    assert [site.depth for site in sites] == [0.0, 1.0]
    assert [site.depth for site in TOY.sites] == pytest.approx([n / 11 for n in range(12)])


def test_tied_weights_are_one_site() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.decoder = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.decoder.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.decoder(self.embedding(x))
            return out

    net = Tied().eval()
    (site,) = sites_of(net, torch.zeros(2, 3, dtype=torch.long))
    assert (site.path, site.weight, site.kind) == ("embedding", "embedding.weight", "embedding")
    assert set(dict(net.named_parameters())) == {site.weight}


def test_patterns_choose_sites_and_one_that_fits_none_is_named() -> None:
    def paths(*patterns: str) -> list[str]:
        return [site.path for site in sites_of(TOY.network, TOY.x[:2], patterns)]

    assert paths("n*", "*wise") == ["norm", "norm_strided", "depthwise", "pointwise", "narrow"]
    assert paths("head", "padded") == ["padded", "head"]
    with pytest.raises(InputError, match=r"fits 'block\*'; there are padded, .*, and 4 more"):
        paths("*", "block*")


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (TOY.network, TOY.x[:3]),
        (SmallResidual(classes=4, in_channels=3), torch.zeros(3, 3, 16, 16)),
    ],
    ids=["toy", "small-residual"],
)
def test_multiply_accumulates_are_those_of_torch(net: nn.Module, x: Tensor) -> None:
    net.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    by_sites = sum(s.macs for s in sites_of(net, x) if s.kind in ("linear", "conv"))
    assert by_sites == counter.get_total_flops() // 2 // len(x)


def test_multiply_accumulates_of_every_layer() -> None:
    assert OF["padded"].macs == 8 * 64 * 27 and OF["depthwise"].macs == 12 * 16 * 9
    assert OF["norm"].macs == 8 * 64 and OF["wide"].macs == 16 * 20 * 12
    assert OF["place"].macs == 0


def test_the_ends_of_residual_branches_are_known() -> None:
    assert {path for path, site in OF.items() if site.ends_branch} == {"pointwise", "narrow"}
    of_vit = {site.path.rpartition(".")[2] for site in vit_sites() if site.ends_branch}
    assert of_vit == {"proj", "fc2"}


@pytest.mark.parametrize("form", ["operator", "in place", "function", "method"])
def test_a_branch_ends_however_the_sum_is_written(form: str) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.end = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            y: Tensor = self.end(self.inner(x).relu())
            if form == "in place":
                y += x
                return y
            if form == "function":
                return torch.add(x, y)
            return y.add(x) if form == "method" else x + y

    sites = sites_of(Residual().eval(), torch.zeros(2, 4))
    assert [site.path for site in sites if site.ends_branch] == ["end"]


def test_blocks_are_the_shortest_prefix_that_parts_the_network() -> None:
    assert {site.block for site in vit_sites("*.q")} == {f"blocks.{n}" for n in range(12)}
    net = nn.ModuleDict(
        {"body": nn.Sequential(*(nn.Sequential(nn.Linear(2, 2)) for _ in range(5)))}
    )
    sites = sites_of(net["body"], torch.zeros(2, 2))
    assert [site.block for site in sites] == [str(n) for n in range(5)]
