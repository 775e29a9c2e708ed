"""Norm statistics whole, averaged, of the first layers only, and read by a second encoder instead
of folded into it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.device.inference.program import Program
from edgeadapt.errors import InputError
from edgeadapt.host import export
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.norm_statistics import NormStatistics
from edgeadapt.runtime import Tensors, open_runtime

ROWS = 48


def module() -> nn.Module:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    for norm in (net[1], net[4]):
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2.0)
    return net.eval()


def encoder() -> ModuleEncoder:
    return ModuleEncoder(module(), InputSpec(layout="NHWC", dtype="uint8", shape=(12, 12, 3)))


def images(seed: int, low: int = 0, high: int = 256) -> torch.Tensor:
    return torch.randint(
        low,
        high,
        (ROWS, 12, 12, 3),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.uint8,
    )


def values(method: NormStatistics) -> dict[str, torch.Tensor]:
    factory = {name: torch.from_numpy(value) for name, value in method.factory(None).items()}  # type: ignore[arg-type]
    return {**method.encoder.frozen, **method.frozen, **factory}


def adapted(method: NormStatistics, x: torch.Tensor) -> dict[str, torch.Tensor]:
    state = values(method)
    return {**state, **method.adapt({"x": x, "sample_weight": torch.ones(len(x))}, state)[1]}


def test_a_moving_average_goes_its_rate_of_the_way_and_arrives() -> None:
    whole, averaged = NormStatistics(encoder()), NormStatistics(encoder(), rate=0.25)
    x, source = images(1, 100, 200), values(whole)
    want, state = adapted(whole, x), adapted(averaged, x)
    for name in ("norm.mean", "norm.variance"):
        torch.testing.assert_close(
            state[name], 0.75 * source[name] + 0.25 * want[name], rtol=1e-5, atol=1e-4
        )
    for _ in range(60):
        state |= averaged.adapt({"x": x, "sample_weight": torch.ones(ROWS)}, state)[1]
    torch.testing.assert_close(state["norm.mean"], want["norm.mean"], rtol=1e-4, atol=1e-4)


def test_the_first_layers_alone_leave_the_constants_of_the_others_out() -> None:
    method = NormStatistics(encoder(), first=1)
    constants = method.refold({}, adapted(method, images(2, 50, 90)))[1]
    assert sorted(constants) == ["encoder.1.scale", "encoder.1.shift"]
    x = images(3, 50, 90)
    z = method.encoder.encode({"x": x}, {**method.encoder.frozen, **constants})["z"]
    assert (
        float((z - method.encoder.encode({"x": x}, method.encoder.frozen)["z"]).abs().max()) > 0.1
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": 0.0}, "rate"),
        ({"rate": 1.5}, "rate"),
        ({"first": 0}, "first 0 layers"),
        ({"first": 3}, "has 2 batch-norms"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        NormStatistics(encoder(), **options)


def test_the_unfolded_form_encodes_as_the_folded_one_does() -> None:
    folded, unfolded = NormStatistics(encoder()), NormStatistics(encoder(), is_unfolded=True)
    x, other = images(4, 60, 130), images(5, 60, 130)
    state = adapted(folded, x)
    want = folded.encoder.encode(
        {"x": other}, {**folded.encoder.frozen, **folded.refold({}, state)[1]}
    )
    got = unfolded.encode({"x": other}, state)
    assert torch.equal(got["z"], want["z"]) and torch.equal(got["taps"], want["taps"])


@pytest.mark.slow
def test_a_bundle_with_the_unfolded_form_adapts_and_loads_no_encoder_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 40)
    x = np.clip(
        rng.normal(80.0 + 40.0 * y[:, None, None, None], 20.0, (120, 12, 12, 3)), 0, 255
    ).astype(np.uint8)
    programs = {}
    for name in ("norm_statistics", "norm_statistics_unfolded"):
        bundle = export(
            tmp_path / f"{name}.edge", module(), (x, y), ("a", "b", "c"), adapt=name, stress=False
        )
        programs[name] = Program(bundle, open_runtime("onnxruntime"))
    folded, unfolded = programs.values()
    assert unfolded.adapts_encoder and not unfolded.manifest.graphs_for("derive")
    dim = (0.5 * x[:64]).astype(np.uint8)
    # the factory's features are the same numbers
    np.testing.assert_array_equal(unfolded.encode(x)[0], folded.encode(x)[0])
    home = unfolded.refold(unfolded.factory_domain())
    np.testing.assert_allclose(
        unfolded.encode(x, home)[0], folded.encode(x)[0], rtol=1e-4, atol=1e-4
    )
    encoders = []
    for program in (folded, unfolded):
        _, written = program.adapt(
            program.factory_domain().over(program.factory()), dim, np.ones(len(dim), np.float32)
        )
        encoders.append(program.refold(written.over(program.factory_domain())))
    z = [
        program.encode(dim, encode)[0]
        for program, encode in zip((folded, unfolded), encoders, strict=True)
    ]
    np.testing.assert_allclose(z[1], z[0], rtol=1e-3, atol=1e-3)
    assert np.abs(z[1] - unfolded.encode(dim)[0]).max() > 0.05
    assert encoders[1].graph is unfolded.refold(unfolded.factory_domain()).graph  # type: ignore[union-attr]
    assert not encoders[1].signature.reads and encoders[1]({"x": dim[:1]}, Tensors())[0][
        "z"
    ].shape == (
        1,
        8,
    )  # type: ignore[union-attr]
