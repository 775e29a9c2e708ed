"""Training is accurate, seeded and resumable, and refuses what it cannot train on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from toy_training import interrupt_at, network, run, same, stripes

from edgeadapt.errors import InputError, StateError
from edgeadapt.host.data.images import ImageData
from edgeadapt.host.encoders.networks import (
    Normalised,
    SmallResidual,
    build_network,
    channel_moments,
    to_nchw,
)
from edgeadapt.host.training.augmentation import augmented
from edgeadapt.host.training.progress import Meter
from edgeadapt.host.training.train import DivergenceError, evaluate, one_cycle, train


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Toy steps gain nothing from a second thread, and wait long for one on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_small_residual_has_the_reference_size_and_names() -> None:
    net = SmallResidual(10)
    # reference/trained_encoder_adaptation.md
    assert sum(p.numel() for p in net.parameters()) == 174_466
    assert [name for name, _ in net.named_children()] == [
        "stem",
        "block1",
        "block2",
        "block3",
        "head",
    ]
    assert net.features(torch.zeros(2, 1, 28, 28)).shape == (2, 96)
    assert torch.allclose(
        net.eval().head(net.features(torch.ones(2, 1, 28, 28))), net(torch.ones(2, 1, 28, 28))
    )


def test_training_tells_stripes_apart() -> None:
    result = train(
        build_network("small-residual", 2),
        stripes(256),
        stripes(128, 1),
        epochs=4,
        batch=32,
        progress=None,
    )
    assert result.accuracy > 0.97
    assert result.accuracy == evaluate(result.network, stripes(128, 1))
    assert result.history[-1].loss < 0.5 * result.history[0].loss
    assert not result.network.training


def test_the_same_seed_repeats_and_another_does_not() -> None:
    assert same(run(network()).network, run(network()).network)
    assert not same(run(network()).network, run(network(), seed=6).network)


def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(network())
    path = tmp_path / "run.safetensors"
    # the checkpoint of that epoch is already written
    for stop in ("epoch 1 of 4  loss", "epoch 3 of 4  loss"):
        with pytest.raises(KeyboardInterrupt):
            run(network(), checkpoint=path, resume=True, progress=interrupt_at(stop))
    # neither the caller's random state nor the new network's weights may matter
    torch.manual_seed(999)
    resumed = run(network(seed=7), checkpoint=path, resume=True)
    assert same(whole.network, resumed.network)
    assert [(r.epoch, r.loss, r.accuracy) for r in whole.history] == [
        (r.epoch, r.loss, r.accuracy) for r in resumed.history
    ]


def test_an_interruption_inside_an_epoch_repeats_that_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "run.safetensors", 0

    def interrupting(x: torch.Tensor, kind: str) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6 * 2 + 3:  # six steps per epoch: the third step of the third epoch
            raise KeyboardInterrupt
        return augmented(x, kind)

    with monkeypatch.context() as patch:
        patch.setattr("edgeadapt.host.training.train.augmented", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run(network(), checkpoint=path)
    assert same(run(network()).network, run(network(), checkpoint=path, resume=True).network)


def test_a_finished_run_resumes_to_its_result(tmp_path: Path) -> None:
    first = run(network(), checkpoint=tmp_path / "a")
    lines: list[str] = []
    again = run(network(seed=3), checkpoint=tmp_path / "a", resume=True, progress=lines.append)
    assert same(first.network, again.network) and again.history == first.history
    assert "after epoch 4 of 4" in lines[1]
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_training_leaves_threads_and_random_state_as_they_were() -> None:
    net = network()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    run(net, epochs=1, threads=2)
    build_network("small-residual", 2, seed=4)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("option", "value"), [("lr", 0.05), ("epochs", 5), ("augment", "plain"), ("seed", 6)]
)
def test_a_checkpoint_of_other_settings_is_refused_by_name(
    tmp_path: Path, option: str, value: object
) -> None:
    run(network(), checkpoint=tmp_path / "a", epochs=4)
    with pytest.raises(StateError, match=rf"{option} = .*, not {value}"):
        run(network(), checkpoint=tmp_path / "a", resume=True, **{option: value})


def test_a_checkpoint_of_other_data_or_network_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    run(network(), checkpoint=path, epochs=1)
    with pytest.raises(StateError, match="data = "):
        train(
            network(),
            stripes(96, 2),
            stripes(),
            epochs=1,
            batch=16,
            lr=0.1,
            augment="robust",
            seed=5,
            checkpoint=path,
            resume=True,
        )
    with pytest.raises(StateError, match="another network"):
        run(SmallResidual(2), checkpoint=path, epochs=1, resume=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StateError, match="delete it"):
        run(network(), checkpoint=path, epochs=1, resume=True)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(StateError, match="not a checkpoint"):
        run(network(), checkpoint=path, epochs=1, resume=True)
    with pytest.raises(StateError, match="no folder"):
        run(network(), checkpoint=tmp_path / "none" / "a")


def test_a_failed_write_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    run(network(), checkpoint=path, epochs=2)
    before = path.read_bytes()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StateError, match="No space left"):
        run(network(), checkpoint=path, epochs=2)
    assert path.read_bytes() == before and load_file(path)


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(DivergenceError, match=r"epoch \d, step \d+.*lower lr"):
        run(network(), lr=1e30)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epochs": 0}, "epochs >= 1"),
        ({"batch": 1}, "batch >= 2"),
        ({"lr": float("nan")}, "lr > 0"),
        ({"momentum": 1.0}, "momentum"),
        ({"augment": "strong"}, "plain, robust, none"),
        ({"resume": True}, "resume needs a checkpoint"),
        ({"threads": 0}, "threads"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run(network(), **options)


def test_data_that_cannot_be_trained_on_is_refused() -> None:
    data = stripes()
    with pytest.raises(InputError, match="at least two classes"):
        train(network(), data.only(("vertical",)), 0.5)
    with pytest.raises(InputError, match="got 0 of"):
        train(network(), data.take(np.array([], int)), data)
    with pytest.raises(InputError, match="'horizontal' has no image"):
        train(network(), data.take(data.y == 1), data)
    with pytest.raises(InputError, match="validation images"):
        train(network(), data, data.only(("vertical", "horizontal")))
    with pytest.raises(InputError, match="got 0 of shape"):
        train(network(), data, data.take(np.array([], int)))
    with pytest.raises(InputError, match=r"returns \(1, 3\).*2 classes"):
        train(SmallResidual(3), data, data)
    with pytest.raises(InputError, match="does not take images"):
        train(SmallResidual(2, in_channels=3), data, data)


def test_progress_speaks_at_once_and_after_every_epoch() -> None:
    lines: list[str] = []
    run(network(), progress=lines.append, epochs=2)
    assert lines[0].startswith("train: 96 images, 2 classes, ")
    assert [line for line in lines if "validation" in line][-1].startswith("train: epoch 2 of 2")


def test_progress_names_the_time_left_after_a_second_and_then_every_five(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, lines = [100.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = Meter(lines.append, epochs=3, steps=10, first=10)  # resumed after the first epoch
    for seconds, step in ((100.5, 0), (101.0, 1), (105.9, 3), (106.0, 5)):
        now[0] = seconds
        meter.step(1, step, 0.25)
    assert lines == [
        # two steps in a second, 18 to go
        "train: epoch 2 of 3  step 2 of 10  loss 0.250  about 9 s left",
        "train: epoch 2 of 3  step 6 of 10  loss 0.250  about 14 s left",
    ]


def test_the_schedule_spans_all_epochs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, float]] = []

    def recorded(step: int, total: int, peak: float) -> float:
        asked.append((step, total, peak))
        return one_cycle(step, total, peak)

    monkeypatch.setattr("edgeadapt.host.training.train.one_cycle", recorded)
    run(network(), epochs=3)
    assert asked == [(step, 18, 0.1) for step in range(18)]


def test_one_cycle_rises_peaks_and_vanishes() -> None:
    rates = [one_cycle(step, 100, 0.2) for step in range(100)]
    assert rates[0] == pytest.approx(0.008) and max(rates) == rates[30] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.2 / 25e4) and all(b < a for a, b in pairwise(rates[30:]))
    assert one_cycle(0, 1, 0.2) == pytest.approx(0.008)


def test_colour_images_are_normalised_per_channel() -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(0, (40, 120, 250), (64, 8, 8, 3)).astype(np.uint8)
    mean, std = channel_moments(x)
    assert np.allclose(mean, x.mean((0, 1, 2))) and np.allclose(std, x.std((0, 1, 2)))
    data = ImageData(x, np.arange(64) % 2, ("a", "b"))
    result = train(SmallResidual(2, 3, (4, 4, 4)), data, 0.25, epochs=1, batch=16, progress=None)
    normalised = result.network.normalise(to_nchw(x).float())
    assert (
        normalised.mean((0, 2, 3)).abs().max() < 0.1
        and (normalised.std((0, 2, 3)) - 1).abs().max() < 0.1
    )


def test_a_trained_network_keeps_its_normalisation_when_trained_again() -> None:
    again = train(
        Normalised(network(), [10.0], [50.0]), stripes(), 0.25, epochs=1, batch=16, progress=None
    )
    assert (
        again.network.normalise.mean.item() == 10.0 and again.network.normalise.std.item() == 50.0
    )


def test_build_network_is_seeded_and_takes_other_sources() -> None:
    assert same(
        build_network("small-residual", 3, seed=1), build_network("small-residual", 3, seed=1)
    )
    assert not same(
        build_network("small-residual", 3, seed=1), build_network("small-residual", 3, seed=2)
    )
    resnet = build_network("torchvision:resnet18", 7, 1).eval()
    assert resnet(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    user = build_network(
        "edgeadapt.host.encoders.networks:SmallResidual", 4, 3, widths=(4, 4, 4)
    ).eval()
    assert user(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("resnet18", "allowed: 'small-residual', 'torchvision:NAME'"),
        ("torchvision:resnet19", "resnet18"),
        ("no_such_module:factory", "cannot be imported"),
        ("math:no_such_name", "cannot be imported"),
        ("math:pi", "not a function"),
        ("builtins:dict", "returned a dict"),
    ],
)
def test_an_unusable_network_spec_is_named(spec: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        build_network(spec, 3)


def test_unusable_network_arguments_are_named() -> None:
    with pytest.raises(InputError, match="got 1, 1"):
        build_network("small-residual", 1)
    with pytest.raises(InputError, match="depth"):
        build_network("small-residual", 2, depth=3)
    with pytest.raises(InputError, match="positive stds"):
        Normalised(network(), [0.0], [0.0])
    with pytest.raises(InputError, match="no method features"):
        Normalised(nn.Flatten(), [0.0], [1.0]).features(torch.zeros(1, 1, 2, 2))
