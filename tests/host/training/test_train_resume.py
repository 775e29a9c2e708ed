"""Whatever the optimiser, the precision and the data: the same seed repeats, and an interruption
leaves no trace.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_training import interrupt_at, network, run, same, stripes, tones

from edgeadapt.errors import InputError, StateError
from edgeadapt.host.encoders.networks import build_network
from edgeadapt.host.training.train import TrainResult, train

KINDS = {
    "sgd": {},
    "adamw": {"optimiser": "adamw", "lr": 0.01},
    "lamb": {"optimiser": "lamb", "lr": 0.05},
    "bfloat16": {"optimiser": "adamw", "lr": 0.01, "precision": "bfloat16"},
    "patience": {"patience": 3},
}


def texts(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    kind: str, tmp_path: Path
) -> None:
    options, path = KINDS[kind], tmp_path / "run.safetensors"
    whole = run(network(), **options)
    for stop in ("epoch 1 of 4  loss", "epoch 3 of 4  loss"):
        with pytest.raises(KeyboardInterrupt):
            run(network(), checkpoint=path, resume=True, progress=interrupt_at(stop), **options)
    resumed = run(network(seed=7), checkpoint=path, resume=True, **options)
    assert (
        same(whole.network, resumed.network)
        and whole.epoch == resumed.epoch
        and whole.accuracy == resumed.accuracy
    )
    assert [(r.loss, r.accuracy) for r in whole.history] == [
        (r.loss, r.accuracy) for r in resumed.history
    ]


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_the_state_of_the_optimiser_matters_and_is_kept(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(network(), checkpoint=path, progress=interrupt_at("epoch 2 of 4  loss"), **KINDS[kind])
    tensors = load_file(path)
    assert tensors["optimiser.step.network.head.weight"] == 2 * 6
    assert tensors["optimiser.exp_avg_sq.network.stem.0.weight"].shape == (4, 1, 3, 3)
    metadata = texts(path)
    for name in tensors:
        if name.startswith("optimiser.exp_avg."):
            tensors[name].zero_()
    save_file(tensors, path, metadata)
    assert not same(
        run(network(), **KINDS[kind]).network,
        run(network(), checkpoint=path, resume=True, **KINDS[kind]).network,
    )


@pytest.mark.parametrize("optimiser", ["adamw", "lamb"])
def test_other_optimisers_tell_stripes_apart_at_their_default_rate(optimiser: str) -> None:
    result = train(
        build_network("small-residual", 2),
        stripes(256),
        stripes(128, 1),
        epochs=6,
        batch=32,
        progress=None,
        optimiser=optimiser,
        threads=1,
    )
    assert result.accuracy > 0.95 and result.history[-1].loss < 0.6 * result.history[0].loss


def signals(**options: object) -> TrainResult:
    net = build_network("sensor-cnn", 2, 2, seed=3)
    return train(
        net,
        tones(),
        tones(64, 1),
        epochs=4,
        batch=16,
        progress=None,
        threads=1,
        optimiser="adamw",
        augment="robust",
        **options,
    )


def test_signals_are_learned_in_their_own_units_and_repeat_bit_for_bit(tmp_path: Path) -> None:
    result = signals()
    assert result.accuracy > 0.95
    assert torch.allclose(
        result.network.normalise.mean.flatten(), torch.tensor([900.0, -0.02]), rtol=0.02, atol=1e-4
    )
    with pytest.raises(KeyboardInterrupt):
        train(
            build_network("sensor-cnn", 2, 2, seed=3),
            tones(),
            tones(64, 1),
            epochs=4,
            batch=16,
            threads=1,
            optimiser="adamw",
            augment="robust",
            checkpoint=tmp_path / "a",
            progress=interrupt_at("epoch 2 of 4  loss"),
        )
    assert same(result.network, signals(checkpoint=tmp_path / "a", resume=True).network)


def test_vectors_are_learned_by_the_perceptron() -> None:
    data, held_out = tones(256), tones(64, 1)
    flat = [type(d)(d.x[:, 0] / 50.0, d.y, d.classes) for d in (data, held_out)]
    result = train(
        build_network("sensor-mlp", 2, 32, seed=1),
        *flat,
        epochs=12,
        batch=16,
        progress=None,
        threads=1,
        optimiser="adamw",
        augment="none",
    )
    assert result.accuracy > 0.9


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("optimiser", "adamw"),
        ("precision", "bfloat16"),
        ("patience", 2),
        ("momentum", 0.8),
        ("weight_decay", 0.01),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(
    tmp_path: Path, option: str, value: object
) -> None:
    run(network(), checkpoint=tmp_path / "a", epochs=1)
    with pytest.raises(StateError, match=rf"{option} = .*, not {value}"):
        run(network(), checkpoint=tmp_path / "a", epochs=1, resume=True, **{option: value})


def test_another_number_of_threads_is_said(tmp_path: Path) -> None:
    run(network(), checkpoint=tmp_path / "a", epochs=1, threads=1)
    for threads, is_said in ((1, False), (2, True)):
        lines: list[str] = []
        run(
            network(),
            checkpoint=tmp_path / "a",
            epochs=1,
            resume=True,
            threads=threads,
            progress=lines.append,
        )
        assert any("written with 1 threads, now there are 2" in line for line in lines) is is_said


@pytest.mark.parametrize("part", ["settings", "history", "log", "scale", "threads", "random.cpu"])
def test_a_checkpoint_without_one_of_its_parts_is_damaged(tmp_path: Path, part: str) -> None:
    path = tmp_path / "a"
    run(network(), checkpoint=path, epochs=1)
    metadata, tensors = texts(path), load_file(path)
    metadata.pop(part, None)
    tensors.pop(part, None)
    save_file(tensors, path, metadata)
    with pytest.raises(StateError, match=r"damaged.*delete it"):
        run(network(), checkpoint=path, epochs=1, resume=True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"optimiser": "adam"}, "optimiser must be one of sgd, adamw, lamb; got 'adam'"),
        ({"precision": "int8"}, "precision must be one of auto, float32"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda"),
        ({"patience": -1}, "patience"),
        ({"precision": "float16", "device": "cpu"}, "float16.*needs a GPU"),
    ],
)
def test_settings_that_do_not_exist_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run(network(), **options)


def test_a_network_with_nothing_to_train_is_refused_and_a_part_of_one_is_trained() -> None:
    with pytest.raises(InputError, match="no parameter to train"):
        run(network().requires_grad_(False))
    for optimiser in ("sgd", "adamw", "lamb"):
        net = network().requires_grad_(False)
        net.head.weight.requires_grad_(True)
        before = {name: value.clone() for name, value in net.named_parameters()}
        run(net, optimiser=optimiser, epochs=1)
        assert [
            name for name, value in net.named_parameters() if not torch.equal(value, before[name])
        ] == ["head.weight"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(
        InputError, match='"cuda": process 0 of this machine needs GPU 0, torch sees 0'
    ):
        run(network(), device="cuda")
