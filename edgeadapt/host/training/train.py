"""Train a classifier on labelled images or signals: SGD, AdamW or LAMB on a one-cycle schedule,
resumable and seeded.

Everything random (order, augmentation, dropout) is drawn from torch's generators, whose states are
part of the checkpoint: on one machine with one number of threads and of processes, an interrupted
and resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError, StateError
from edgeadapt.host.data.labelled import Labelled
from edgeadapt.host.encoders.networks import Normalised, normalised, require_classifier, to_nchw
from edgeadapt.host.training.augmentation import Augment, augmented
from edgeadapt.host.training.checkpoint import Parts, read_checkpoint, restore, save_checkpoint
from edgeadapt.host.training.early_stop import BestWeights, best_epoch
from edgeadapt.host.training.log import ROWS_PER_EPOCH, RunLog
from edgeadapt.host.training.optimiser import build_optimiser
from edgeadapt.host.training.out_of_memory import TrainingMemoryError, naming_out_of_memory
from edgeadapt.host.training.parallel import Order, Ranks, joined_ranks
from edgeadapt.host.training.precision import (
    MixedPrecision,
    choose_device,
    choose_precision,
    repeatable_kernels,
)
from edgeadapt.host.training.progress import Meter
from edgeadapt.host.training.records import DivergenceError, EpochRecord, LogRow
from edgeadapt.host.training.schedule import one_cycle
from edgeadapt.host.training.settings import (
    DeviceName,
    OptimiserName,
    PrecisionName,
    Settings,
    rate_and_decay,
)


@dataclass(frozen=True)
class TrainResult:
    """What training returns.

    ``network`` is in evaluation mode, on the CPU, and takes what a device gives it: float32 images
    (B, C, H, W) in [0, 255], or signals in their own units. ``accuracy`` is that of ``network`` on
    the validation samples and ``epoch`` the one whose weights it has: the last, or with
    ``patience`` the best. ``seconds`` adds up all epochs, those before a resume included.
    """

    network: Normalised
    accuracy: float
    history: tuple[EpochRecord, ...]
    seconds: float
    epoch: int


def train(
    network: nn.Module,
    data: Labelled,
    validation: Labelled | float,
    *,
    epochs: int = 3,
    batch: int = 128,
    optimiser: OptimiserName = "sgd",
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    augment: Augment = "plain",
    patience: int = 0,
    precision: PrecisionName = "auto",
    device: DeviceName = "auto",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    log: str | Path | None = None,
    progress: Callable[[str], None] | None = print,
    threads: int | None = None,
) -> TrainResult:
    """Train ``network`` in place and return it behind its normalisation.

    Called in every process that ``torchrun`` started, it trains in all of them together: each takes
    its part of every batch.

    Args:
        network: takes (B, C, H, W) float32, or signals, and returns logits (B, classes). A
            ``Normalised`` keeps its mean and standard deviation; any other is wrapped with those of
            ``data``.
        data: at least two classes, at least one sample of each.
        validation: samples with the same classes, or the fraction of ``data`` to hold out
            (stratified, by ``seed``; whole groups if ``data`` has any).
        epochs: passes over ``data``; the last, incomplete batch of a pass is dropped (the order is
            new every pass).
        batch: samples per step, over all processes together.
        optimiser: ``"sgd"`` (Nesterov), ``"adamw"`` or ``"lamb"``.
        lr: peak learning rate; the schedule starts at lr / 25, peaks after 30% of the steps, ends
            at lr / 250,000. None: 0.2 for SGD, 0.004 for AdamW, 0.01 for LAMB.
        momentum: of SGD, and the first beta of AdamW and LAMB, in [0, 1).
        weight_decay: None: 5e-4 for SGD, 0.02 for AdamW and LAMB.
        augment: ``"plain"``, ``"robust"`` or ``"none"``, of images and of signals: see
            ``edgeadapt.host.training.augmentation.augmented``. ``"none"`` is for images where a
            flip changes the meaning, such as digits.
        patience: stop after so many epochs without a better validation accuracy, and return the
            best weights; 0 trains to the end and returns the last.
        precision: of the forward and backward pass: ``"float32"``, ``"bfloat16"``, ``"float16"``
            (GPU) or ``"auto"``: float32 on a CPU, on a GPU bfloat16 if it has it, else float16.
            Weights and validation are float32.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU if there is one.
        seed: at least 0; of order, augmentation and hold-out (initial weights are the network's
            own).
        checkpoint: a safetensors file written after every epoch, replaced atomically.
        resume: continue from ``checkpoint`` if it exists; without, an existing file is replaced.
        log: a folder for ``metrics.csv`` and, where tensorboard is installed, its events.
        progress: called with one line at once, within about a second, every five seconds and after
            every epoch.
        threads: torch's threads during training; ``None`` leaves them as they are.

    Raises:
        InputError: data or a setting is not usable.
        StateError: the checkpoint is damaged, cannot be written, or belongs to other settings, data
            or network.
        DivergenceError: the loss or the logits are not finite.
        TrainingMemoryError: a batch does not fit into memory.
    """
    if (resume and checkpoint is None) or (threads is not None and threads < 1) or seed < 0:
        raise InputError(
            f"resume needs a checkpoint, threads at least 1, seed at least 0; got {checkpoint},"
            f" {threads}, {seed}"
        )
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.parent.is_dir():
        raise StateError(f"{path}: the checkpoint cannot be written: no folder {path.parent}")
    data, validation = _fitting(data, validation, seed)
    lr, weight_decay = rate_and_decay(optimiser, lr, weight_decay)
    with _threads(threads), joined_ranks(device) as ranks:
        place = choose_device(device, ranks.local)
        bits = choose_precision(precision, place)
        settings = Settings(
            epochs,
            batch,
            optimiser,
            lr,
            momentum,
            weight_decay,
            augment,
            patience,
            bits,
            place.type,
            ranks.count,
            seed,
            data.fingerprint(),
            validation.fingerprint(),
        )
        _require_the_same(settings, ranks)
        say = progress if progress and ranks.is_first else _silent
        folder = Path(log) if log is not None and ranks.is_first else None
        shape = data.x.shape[1:]
        with naming_out_of_memory(batch // ranks.count, shape, place), repeatable_kernels(place):
            return _Run(network, data, validation, settings, place, ranks, say).result(
                path, resume, folder
            )


def evaluate(network: nn.Module, data: Labelled, batch: int = 512) -> float:
    """Accuracy in [0, 1] of a network that takes the samples as they are, images in [0, 255]; it is
    left in evaluation mode.

    Raises:
        InputError: there are no samples.
        DivergenceError: a logit is not finite.
    """
    if not len(data):
        raise InputError(f"no {data.noun}s to evaluate on")
    return _accuracy(network, to_nchw(data.x), torch.from_numpy(data.y), batch, Ranks())


class _Run:
    """One run: what it needs, put together; and its epochs."""

    def __init__(
        self,
        network: nn.Module,
        data: Labelled,
        validation: Labelled,
        settings: Settings,
        device: torch.device,
        ranks: Ranks,
        say: Callable[[str], None],
    ) -> None:
        module = normalised(network, data.x)
        if len(data) < 2 * ranks.count:
            raise InputError(
                f"{ranks.count} processes need at least two {data.noun}s each; got {len(data)}"
            )
        self.settings, self.device, self.ranks, self.say = settings, device, ranks, say
        self.inputs, self.labels = to_nchw(data.x), torch.from_numpy(data.y)
        self.held_out = to_nchw(validation.x), torch.from_numpy(validation.y)
        self.module: Normalised = module.to(device)
        require_classifier(module, self.inputs[:1].to(device), len(data.classes))
        # faster on a CPU; the same values up to rounding
        module.to(memory_format=torch.channels_last)
        self.optimiser = build_optimiser(module, settings)
        self.precision = MixedPrecision(settings.precision, device)
        self.best = BestWeights(settings.patience)
        self.steps = max(1, len(data) // settings.batch)
        parameters = sum(p.numel() for p in module.parameters())
        say(
            f"train: {len(data):,} {data.noun}s, {len(data.classes)} classes, {parameters:,}"
            f" parameters, {settings.epochs} epochs of {self.steps} steps, {settings.optimiser},"
            f" {settings.precision} on"
            f" {device.type}{f', {ranks.count} processes' if ranks.count > 1 else ''}"
        )

    def result(self, path: Path | None, resume: bool, folder: Path | None) -> TrainResult:
        """Train from the start, or from the checkpoint."""
        settings, say, first = self.settings, self.say, self.ranks.is_first
        parts = Parts(self.module, self.optimiser, self.precision, self.best, settings, self.device)
        history: list[EpochRecord] = []
        rows: list[LogRow] = []
        with torch.random.fork_rng([self.device.index] if self.device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            if resume and path is not None:
                found = self.ranks.share(read_checkpoint(path) if first else None)
                if found is not None:
                    history, rows = restore(path, found, parts, say)
            self.ranks.begin_alike(self.module)
            order = Order(len(self.labels), settings.seed, self.ranks, len(history))
            meter = Meter(say, settings.epochs, self.steps, first=len(history) * self.steps)
            log = RunLog(folder, rows, say)
            try:
                while len(history) < settings.epochs and not self.best.is_waiting_over(history):
                    history.append(self._epoch(order.of(len(history)), history, meter, log))
                    self.best.consider(self.module, history)
                    if path is not None and first:
                        save_checkpoint(path, parts, history, log.rows)
                    last = history[-1]
                    say(
                        f"train: epoch {last.epoch} of {settings.epochs}  loss {last.loss:.4f} "
                        f" validation {last.accuracy:.2%}  {last.seconds:.1f} s"
                    )
            finally:
                log.close()
        return self._chosen(history)

    def _epoch(
        self, order: Tensor, history: list[EpochRecord], meter: Meter, log: RunLog
    ) -> EpochRecord:
        settings, epoch, steps = self.settings, len(history), self.steps
        started, before = time.perf_counter(), sum(record.seconds for record in history)
        every = math.ceil(steps / ROWS_PER_EPOCH)
        self.module.train()
        total = loss = rate = 0.0
        for step in range(steps):
            rate = one_cycle(epoch * steps + step, settings.epochs * steps, settings.lr)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            value = self._step(
                self.ranks.part(order[step * settings.batch : (step + 1) * settings.batch]),
                epoch,
                step,
                rate,
            )
            total += value
            if (step + 1) % every == 0 or step + 1 == steps:
                loss = self.ranks.sum(total)[0] / self.ranks.count / (step + 1)
                if step + 1 < steps:
                    log.write(
                        LogRow(
                            epoch + 1,
                            epoch * steps + step + 1,
                            rate,
                            loss,
                            None,
                            before + time.perf_counter() - started,
                        )
                    )
            meter.step(epoch, step, value)
        self.ranks.average_statistics(self.module)
        accuracy = _accuracy(self.module, *self.held_out, 512, self.ranks)
        record = EpochRecord(epoch + 1, loss, accuracy, time.perf_counter() - started)
        log.write(
            LogRow(epoch + 1, (epoch + 1) * steps, rate, loss, accuracy, before + record.seconds)
        )
        return record

    def _step(self, rows: Tensor, epoch: int, step: int, rate: float) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        x, y = (
            augmented(self.inputs[rows], self.settings.augment).to(self.device),
            self.labels[rows].to(self.device),
        )
        with self.precision.autocast():
            logits = self.module(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(
                f"the loss is {value} in epoch {epoch + 1}, step {step + 1}, at rate {rate:.3g};"
                " train with a lower lr"
            )
        self.precision.step(
            loss, self.optimiser, partial(self.ranks.average_gradients, self.module)
        )
        return value

    def _chosen(self, history: list[EpochRecord]) -> TrainResult:
        """The last weights, or with patience the best."""
        chosen = best_epoch(history) if self.settings.patience else len(history)
        if self.settings.patience:
            self.module.load_state_dict(self.best.weights)
            early = "stopped early; " if len(history) < self.settings.epochs else ""
            self.say(
                f"train: {early}the weights are those of epoch {chosen}, validation"
                f" {history[chosen - 1].accuracy:.2%}"
            )
        self.module.eval().cpu().to(memory_format=torch.contiguous_format)
        return TrainResult(
            self.module,
            history[chosen - 1].accuracy,
            tuple(history),
            sum(record.seconds for record in history),
            chosen,
        )


def _fitting(data: Labelled, validation: Labelled | float, seed: int) -> tuple[Labelled, Labelled]:
    """Training and validation samples that fit together."""
    if not isinstance(validation, Labelled):
        data, validation = data.split(float(validation), seed)
    data.require_every_class()
    if (
        not len(validation)
        or validation.classes != data.classes
        or validation.x.shape[1:] != data.x.shape[1:]
    ):
        given = (
            f"{len(validation)} of shape {validation.x.shape[1:]}, classes"
            f" {', '.join(validation.classes)}"
        )
        raise InputError(
            f"validation {data.noun}s must have shape {data.x.shape[1:]} and classes"
            f" {', '.join(data.classes)}; got {given}"
        )
    return data, validation


def _require_the_same(settings: Settings, ranks: Ranks) -> None:
    """Every process must have the same data and recipe, or their gradients would be averaged over
    different tasks.
    """
    ours, theirs = asdict(settings), ranks.share(asdict(settings))
    for name, value in theirs.items():
        if ours[name] != value:
            raise StateError(
                f"process {ranks.rank} has {name} = {ours[name]}, process 0 has {value}; give every"
                " process the same recipe and data"
            )


def _accuracy(
    network: nn.Module, inputs: Tensor, labels: Tensor, batch: int, ranks: Ranks
) -> float:
    """Accuracy over all samples; every process looks at its share of them."""
    network.eval()
    place = next(
        (tensor.device for tensor in (*network.parameters(), *network.buffers())),
        torch.device("cpu"),
    )
    inputs_here, labels_here = inputs[ranks.rank :: ranks.count], labels[ranks.rank :: ranks.count]
    correct = broken = 0
    with torch.inference_mode():
        for x, y in zip(inputs_here.split(batch), labels_here.split(batch), strict=True):
            logits = network(x.to(place).float())
            broken += not bool(logits.isfinite().all())
            correct += int((logits.argmax(1) == y.to(place)).sum())
    right, wrong = ranks.sum(correct, broken)
    if wrong:
        raise DivergenceError(
            "the network returns logits that are not finite; train with a lower lr"
        )
    return right / len(labels)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(line: str) -> None:
    """The other processes say nothing."""


__all__ = [
    "DivergenceError",
    "EpochRecord",
    "TrainResult",
    "TrainingMemoryError",
    "evaluate",
    "one_cycle",
    "train",
]
