"""Train a classifier on labelled images: SGD with Nesterov momentum on a one-cycle schedule, resumable and seeded.

Everything random (order, augmentation, dropout) is drawn from torch's CPU generator, whose state is part of the
checkpoint: on one machine with one thread count, an interrupted and resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeadapt._durable import replace_file
from edgeadapt.errors import EdgeadaptError, InputError, StateError
from edgeadapt.host.datasets import ImageData
from edgeadapt.host.networks import Augment, Normalised, augmented, channel_moments, require_classifier, to_nchw

WARM_UP = 0.3  # share of the steps before the peak of the learning rate
START_DIVISOR, END_DIVISOR = 25.0, 25e4  # peak over first and over last learning rate


class DivergenceError(EdgeadaptError):
    """The loss or the logits stopped being finite; the message has the epoch, the step and the learning rate."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean training loss (nats, on augmented images), validation accuracy in [0, 1], wall-clock seconds."""

    epoch: int
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What training returns.

    ``network`` is in evaluation mode and takes float32 (B, C, H, W) in [0, 255]; ``accuracy`` is that of the last
    epoch on the validation images; ``seconds`` adds up all epochs, those before a resume included.
    """

    network: Normalised
    accuracy: float
    history: tuple[EpochRecord, ...]
    seconds: float


@dataclass(frozen=True)
class _Settings:
    """What a checkpoint must have been written with; ``data`` is the fingerprint of the training images."""

    epochs: int
    batch: int
    lr: float
    momentum: float
    weight_decay: float
    augment: Augment
    seed: int
    data: str

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise InputError(f"training needs epochs >= 1 and batch >= 2; got {self.epochs} and {self.batch}")
        if not (0 < self.lr < math.inf and 0 <= self.momentum < 1 and 0 <= self.weight_decay < 1):
            given = f"{self.lr}, {self.momentum}, {self.weight_decay}"
            raise InputError(f"training needs lr > 0, and momentum and weight_decay in [0, 1); got {given}")
        if self.augment not in get_args(Augment):
            raise InputError(f"augment must be one of {', '.join(get_args(Augment))}; got {self.augment!r}")


def train(
    network: nn.Module,
    data: ImageData,
    validation: ImageData | float,
    *,
    epochs: int = 3,
    batch: int = 128,
    lr: float = 0.2,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    augment: Augment = "plain",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[str], None] | None = print,
    threads: int | None = None,
) -> TrainResult:
    """Train ``network`` in place and return it behind its normalisation.

    Args:
        network: takes (B, C, H, W) float32 and returns logits (B, classes). A ``Normalised`` keeps its mean and
            standard deviation; any other is wrapped with those of ``data``.
        data: at least two classes, at least one image of each.
        validation: images with the same classes, or the fraction of ``data`` to hold out (stratified, by ``seed``).
        epochs: passes over ``data``; the last, incomplete batch of a pass is dropped (the order is new every pass).
        batch: images per step.
        lr: peak learning rate; the schedule starts at lr / 25, peaks after 30% of the steps, ends at lr / 250,000.
        momentum: of Nesterov's SGD, in [0, 1).
        weight_decay: on every parameter.
        augment: ``"plain"`` (default) flips left-right and shifts by up to 2 pixels; ``"robust"`` adds mild brightness,
            contrast and noise; ``"none"`` is for images where a flip changes the meaning, such as digits.
        seed: at least 0; of order, augmentation and hold-out (initial weights are the network's own).
        checkpoint: a safetensors file written after every epoch, replaced atomically.
        resume: continue from ``checkpoint`` if it exists; without, an existing file is replaced.
        progress: called with one line at once, within about a second, every five seconds and after every epoch.
        threads: torch's threads during training; ``None`` leaves them as they are.

    Raises:
        InputError: data or a setting is not usable.
        StateError: the checkpoint is damaged, cannot be written, or belongs to other settings, data or network.
        DivergenceError: the loss or the logits are not finite.
    """
    if (resume and checkpoint is None) or (threads is not None and threads < 1) or seed < 0:
        raise InputError(f"resume needs a checkpoint, threads at least 1, seed at least 0; got {checkpoint}, {threads}, {seed}")
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.parent.is_dir():
        raise StateError(f"{path}: the checkpoint cannot be written: no folder {path.parent}")
    if not isinstance(validation, ImageData):
        data, validation = data.split(float(validation), seed)
    data.require_every_class()
    settings = _Settings(epochs, batch, lr, momentum, weight_decay, augment, seed, data.fingerprint())
    if not len(validation) or validation.classes != data.classes or validation.x.shape[1:] != data.x.shape[1:]:
        given = f"{len(validation)} of shape {validation.x.shape[1:]}, classes {', '.join(validation.classes)}"
        raise InputError(f"validation images must have shape {data.x.shape[1:]} and classes {', '.join(data.classes)}; got {given}")
    say = progress or (lambda line: None)
    module = network if isinstance(network, Normalised) else Normalised(network, *channel_moments(data.x))
    images, labels = to_nchw(data.x), torch.from_numpy(data.y)
    require_classifier(module, images[:1], len(data.classes))
    module.to(memory_format=torch.channels_last)  # faster on a CPU; the same values up to rounding
    optimiser = torch.optim.SGD(module.parameters(), lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0)
    history: list[EpochRecord] = []
    steps = max(1, len(data) // batch)
    parameters = sum(p.numel() for p in module.parameters())
    say(f"train: {len(data):,} images, {len(data.classes)} classes, {parameters:,} parameters, {epochs} epochs of {steps} steps")
    with _threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if resume and path is not None and path.exists():
            history = _load(path, module, optimiser, settings)
            say(f"train: resumed {path} after epoch {len(history)} of {epochs}")
        meter = _Meter(say, epochs, steps, first=len(history) * steps)
        for epoch in range(len(history), epochs):
            started = time.perf_counter()
            loss = _epoch(module, optimiser, images, labels, settings, epoch, meter)
            accuracy = evaluate(module, validation)
            history.append(EpochRecord(epoch + 1, loss, accuracy, time.perf_counter() - started))
            if path is not None:
                _save(path, module, optimiser, settings, history)
            say(f"train: epoch {epoch + 1} of {epochs}  loss {loss:.4f}  validation {accuracy:.2%}  {history[-1].seconds:.1f} s")
    module.eval().to(memory_format=torch.contiguous_format)
    return TrainResult(module, history[-1].accuracy, tuple(history), sum(record.seconds for record in history))


def evaluate(network: nn.Module, data: ImageData, batch: int = 512) -> float:
    """Accuracy in [0, 1] of a network that takes pixel values in [0, 255]; it is left in evaluation mode.

    Raises:
        InputError: there are no images.
        DivergenceError: a logit is not finite.
    """
    if not len(data):
        raise InputError("no images to evaluate on")
    network.eval()
    images, labels = to_nchw(data.x), torch.from_numpy(data.y)
    correct = 0
    with torch.inference_mode():
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            logits = network(x.float())
            if not bool(logits.isfinite().all()):
                raise DivergenceError("the network returns logits that are not finite; train with a lower lr")
            correct += int((logits.argmax(1) == y).sum())
    return correct / len(data)


def one_cycle(step: int, total: int, peak: float) -> float:
    """Learning rate of a step: cosine from peak / 25 up to peak, then cosine down to peak / 250,000.

    Source: Smith and Topin, arXiv 1708.07120; momentum is constant here.
    """
    top = WARM_UP * total
    if step < top:
        low, share = peak / START_DIVISOR, 1.0 - step / top
    else:
        low, share = peak / END_DIVISOR, (step - top) / max(total - 1 - top, 1.0)
    return low + (peak - low) * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def _epoch(
    module: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor, settings: _Settings, epoch: int, meter: _Meter
) -> float:
    module.train()
    total, steps = 0.0, meter.steps
    order = torch.randperm(len(labels))
    for step in range(steps):
        rate = one_cycle(epoch * steps + step, settings.epochs * steps, settings.lr)
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = order[step * settings.batch : (step + 1) * settings.batch]
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(module(augmented(images[rows], settings.augment)), labels[rows])
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(f"the loss is {value} in epoch {epoch + 1}, step {step + 1}, at rate {rate:.3g}; train with a lower lr")
        loss.backward()
        optimiser.step()
        total += value
        meter.step(epoch, step, value)
    return total / steps


class _Meter:
    """Says where training stands: after about a second, then every five."""

    def __init__(self, say: Callable[[str], None], epochs: int, steps: int, first: int) -> None:
        self.steps = steps
        self._say, self._epochs, self._first = say, epochs, first
        self._started = time.perf_counter()
        self._next = self._started + 0.8

    def step(self, epoch: int, step: int, loss: float) -> None:
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + 5.0
        done = epoch * self.steps + step + 1
        left = (now - self._started) / (done - self._first) * (self._epochs * self.steps - done)
        self._say(f"train: epoch {epoch + 1} of {self._epochs}  step {step + 1} of {self.steps}  loss {loss:.3f}  about {left:.0f} s left")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _save(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, settings: _Settings, history: list[EpochRecord]) -> None:
    tensors = {f"model.{name}": value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        buffer = optimiser.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer.clone().contiguous()
    tensors["random_state"] = torch.get_rng_state()
    metadata = {"settings": json.dumps(asdict(settings)), "history": json.dumps([asdict(record) for record in history])}
    try:
        replace_file(path, save(tensors, metadata))
    except OSError as error:
        raise StateError(f"{path}: the checkpoint cannot be written: {error}") from error


def _load(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, settings: _Settings) -> list[EpochRecord]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, safe_open is not iterable
        saved = json.loads(metadata["settings"])
        history = [EpochRecord(**record) for record in json.loads(metadata["history"])]
        random_state = tensors.pop("random_state")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path}: not a checkpoint of this trainer, or damaged: {error}; delete it to start anew") from error
    for name, value in asdict(settings).items():
        if saved.get(name) != value:
            raise StateError(f"{path}: the checkpoint was written with {name} = {saved.get(name)}, not {value}; delete it to start anew")
    try:
        module.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    except RuntimeError as error:
        raise StateError(f"{path}: the checkpoint is of another network: {error}") from error
    for name, parameter in module.named_parameters():
        if f"momentum.{name}" in tensors:
            optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
    torch.set_rng_state(random_state)
    return history


__all__ = ["DivergenceError", "EpochRecord", "TrainResult", "evaluate", "one_cycle", "train"]
