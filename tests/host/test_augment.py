"""Augmentation changes every input anew, repeatably, by as much as its kind says, and in whatever
units a sensor has.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeadapt.host.training.augmentation import augmented


def drawn(x: Tensor, kind: str, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return augmented(x, kind)  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = (noise(40, 3, 12, 10) * 50 + 128).clamp(0, 255).to(torch.uint8)
SIGNALS = (
    noise(40, 3, 60) * torch.tensor([1.0, 0.1, 10.0])[:, None]
    + torch.tensor([0.0, 5.0, -3.0])[:, None]
)
VECTORS = noise(40, 6)


@pytest.mark.parametrize("kind", ["plain", "robust"])
@pytest.mark.parametrize("x", [IMAGES, SIGNALS, VECTORS], ids=["images", "signals", "vectors"])
def test_a_seed_repeats_the_draws_and_every_input_of_a_batch_has_its_own(
    x: Tensor, kind: str
) -> None:
    once = drawn(x, kind)
    assert once.shape == x.shape and once.dtype == torch.float32 and bool(once.isfinite().all())
    assert torch.equal(once, drawn(x, kind)) and not torch.equal(once, drawn(x, kind, seed=1))
    same = drawn(x[:1].expand(40, *x.shape[1:]).contiguous(), "robust" if x.dim() == 2 else kind)
    if x.dim() > 2:  # equal vectors have no deviation to jitter by
        assert len({tuple(row.flatten().tolist()) for row in same}) > 20


@pytest.mark.parametrize("x", [IMAGES, SIGNALS, VECTORS], ids=["images", "signals", "vectors"])
def test_none_changes_nothing(x: Tensor) -> None:
    assert torch.equal(augmented(x, "none"), x.float())


def test_plain_images_are_flipped_and_shifted_by_up_to_two_pixels() -> None:
    image = torch.arange(2 * 9 * 8, dtype=torch.uint8).reshape(1, 2, 9, 8)
    padded = nn.functional.pad(image.float(), (2, 2, 2, 2), "reflect")
    allowed = {
        (d, r, 0): padded[0, :, 2 + d : 11 + d, 2 + r : 10 + r]
        for d in range(-2, 3)
        for r in range(-2, 3)
    }
    allowed |= {(d, r, 1): view.flip(2) for (d, r, _), view in allowed.items()}
    seen = {
        key
        for moved in drawn(image.expand(400, -1, -1, -1), "plain")
        for key, view in allowed.items()
        if torch.equal(view, moved)
    }
    assert seen == set(allowed)


def test_robust_images_change_in_light_noise_sharpness_and_depth_and_stay_in_range() -> None:
    # no edge: only light, noise and bits are left
    flat = drawn(torch.full((600, 1, 12, 12), 128, dtype=torch.uint8), "robust")
    spread, level = flat.std((1, 2, 3)), flat.mean((1, 2, 3))
    assert flat.min() >= 0 and flat.max() <= 255
    assert 0.3 < (spread == 0).float().mean() < 0.7 and 12 < spread.max() < 0.1 * 255, (
        "half of them are noisy, by up to 0.08"
    )
    assert level.min() < 128 - 40 and level.max() > 128 + 40 and ((level - 128).abs() < 85).all()
    board = (torch.arange(12)[:, None] + torch.arange(12)) % 2 * 200 + 20
    contrast = drawn(board.to(torch.uint8).expand(600, 1, 12, 12), "robust").std((1, 2, 3)) / 100
    assert contrast.min() < 0.4, "some are blurred"
    assert contrast.max() > 1.05, "some are sharper"
    ramp = torch.arange(0, 252, 7, dtype=torch.uint8).reshape(1, 1, 6, 6).expand(600, 1, 6, 6)
    levels = torch.tensor([len(row.unique()) for row in drawn(ramp, "robust")])
    assert (levels <= 9).any() and (levels > 30).any(), "some have three bits per pixel"


@pytest.mark.parametrize("kind", ["plain", "robust"])
def test_sensor_augmentation_does_not_depend_on_units(kind: str) -> None:
    gain = torch.tensor([1000.0, 0.02, 3.0])[:, None]
    offset = torch.tensor([-5.0, 70.0, 0.0])[:, None]
    expected = drawn(SIGNALS.double(), kind) * gain + offset
    assert torch.allclose(
        drawn(SIGNALS.double() * gain + offset, kind), expected, rtol=1e-9, atol=1e-9
    )


def test_plain_signals_move_in_time_and_jitter_a_little() -> None:
    ramp = torch.arange(100.0).expand(300, 2, 100).contiguous()
    moved = drawn(ramp, "plain") - ramp
    middle = moved[:, :, 20:80].mean((1, 2))
    assert middle.min() < -4.5 and middle.max() > 4.5 and middle.abs().max() < 5.3, (
        "by up to a twentieth of the length"
    )
    assert len(middle.round().unique()) == 11
    jitter = (moved - moved.round()).std() / ramp.std()
    assert 0.005 < jitter < 0.025
    vectors = drawn(VECTORS, "plain") - VECTORS
    assert torch.allclose(vectors.std(0) / VECTORS.std(0), torch.full((6,), 0.02), atol=0.01)


def test_robust_signals_lose_channels_and_change_in_gain_and_noise() -> None:
    wave = torch.sin(torch.arange(200.0) / 3).expand(800, 4, 200).contiguous()
    changed = drawn(wave, "robust")
    spectrum = torch.fft.rfft(changed).abs()[:, :, 9:13].amax(2) / torch.fft.rfft(wave).abs()[
        :, :, 9:13
    ].amax(2)
    lost = spectrum < 0.2
    assert 0.07 < lost.float().mean() < 0.13, "every tenth channel"
    gains = spectrum[~lost]
    assert 0.6 < gains.min() < 0.75 and 1.25 < gains.max() < 1.4
    alone = drawn(wave[:, :1].contiguous(), "robust")
    assert (torch.fft.rfft(alone).abs()[:, :, 9:13].amax(2) > 10).all(), (
        "the only channel is never lost"
    )


def test_images_and_signals_smaller_than_the_shift_are_taken() -> None:
    assert drawn(torch.zeros(3, 1, 1, 2, dtype=torch.uint8), "plain").shape == (3, 1, 1, 2)
    assert drawn(torch.ones(3, 2, 1), "robust").shape == (3, 2, 1)
    assert torch.equal(drawn(torch.ones(3, 2), "robust"), torch.ones(3, 2)), (
        "what never varies stays"
    )
