"""Mixed precision: what is computed in fewer bits, and what is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_training import WithoutNorm, network, run, same, stripes

from edgeadapt.host.encoders.networks import build_network
from edgeadapt.host.training.precision import MixedPrecision, choose_device, choose_precision
from edgeadapt.host.training.train import train

CPU = torch.device("cpu")


class Watching(WithoutNorm):
    """Remembers the type of its feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[self.training].add(self.convolution(x).dtype)
        return super().forward(x)


def test_bfloat16_computes_in_bfloat16_and_keeps_and_validates_in_float32() -> None:
    torch.manual_seed(0)
    net = Watching()
    result = run(net, precision="bfloat16", epochs=1)
    assert net.seen == {True: {torch.bfloat16}, False: {torch.float32}}
    assert all(value.dtype == torch.float32 for value in result.network.state_dict().values())
    plain = Watching()
    run(plain, epochs=1)
    assert plain.seen == {True: {torch.float32}, False: {torch.float32}}  # auto on a CPU


def test_bfloat16_learns_and_is_not_float32() -> None:
    def trained(precision: str):
        net = build_network("small-residual", 2, widths=(8, 12, 16), seed=1)
        return train(
            net,
            stripes(256),
            stripes(128, 1),
            epochs=5,
            batch=32,
            progress=None,
            precision=precision,
            threads=1,
            device="cpu",
        )

    half, full = trained("bfloat16"), trained("float32")
    assert half.accuracy > 0.93 and not same(half.network, full.network)
    assert half.history[0].loss == pytest.approx(full.history[0].loss, rel=0.1)


def test_auto_is_float32_on_a_cpu() -> None:
    assert choose_precision("auto", CPU) == "float32" and choose_device("cpu") == CPU
    assert same(
        run(network(), epochs=1, device="cpu").network,
        run(network(), epochs=1, device="cpu", precision="float32").network,
    )


def test_the_loss_is_scaled_for_float16_and_an_overflow_leaves_the_step_out() -> None:
    """The same scaler that a GPU uses, here on a CPU."""
    mixed, weight = MixedPrecision("float16", CPU), nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([weight], 0.5)
    scale = mixed.scaler.get_scale()
    mixed.step((weight * torch.tensor([1.0, 2.0])).sum(), optimiser)
    # unscaled before the step
    torch.testing.assert_close(weight.detach(), torch.tensor([0.5, 0.0]))
    assert mixed.scaler.get_scale() == scale
    before = weight.detach().clone()
    optimiser.zero_grad()
    mixed.step((weight * torch.tensor([1e37, 1.0])).sum(), optimiser)  # times 2^16 it is infinite
    assert torch.equal(weight.detach(), before) and mixed.scaler.get_scale() == scale / 2
    fresh = MixedPrecision("float16", CPU)
    fresh.scaler.load_state_dict(mixed.scaler.state_dict())
    assert fresh.scaler.get_scale() == scale / 2


def test_other_precisions_scale_nothing() -> None:
    for precision in ("float32", "bfloat16"):
        assert not MixedPrecision(precision, CPU).scaler.is_enabled()
