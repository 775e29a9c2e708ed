"""A run in one safetensors file: weights, the optimiser's state, the best weights, random states,
history and log.

    model.NAME            parameters and buffers
    optimiser.KEY.NAME    what the optimiser keeps of a parameter: momentum_buffer, or step, exp_avg
                          and exp_avg_sq
    best.NAME             weights of the best epoch, if early stopping is on and that is not the
                          last
    random.cpu, .cuda     states of torch's generators
    metadata              settings, history, log, the loss scale and the number of threads, as JSON
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from edgeadapt._durable import replace_file
from edgeadapt.errors import StateError
from edgeadapt.host.training.early_stop import BestWeights, best_epoch
from edgeadapt.host.training.precision import MixedPrecision
from edgeadapt.host.training.records import EpochRecord, LogRow
from edgeadapt.host.training.settings import Settings


@dataclass(frozen=True)
class Parts:
    """Everything that a checkpoint fills or is made from."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    precision: MixedPrecision
    best: BestWeights
    settings: Settings
    device: torch.device


def save_checkpoint(
    path: Path, parts: Parts, history: Sequence[EpochRecord], rows: Sequence[LogRow]
) -> None:
    """Replace the file in one step; a failure leaves the old one.

    Raises:
        StateError: it cannot be written.
    """
    tensors = {f"model.{name}": value for name, value in parts.module.state_dict().items()}
    for name, parameter in parts.module.named_parameters():
        kept = parts.optimiser.state.get(parameter, {})
        tensors |= {
            f"optimiser.{key}.{name}": value
            for key, value in kept.items()
            if isinstance(value, Tensor)
        }
    if parts.best.weights and best_epoch(history) != len(history):
        tensors |= {f"best.{name}": value for name, value in parts.best.weights.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if parts.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(parts.device)
    metadata = {
        "settings": json.dumps(asdict(parts.settings)),
        "history": json.dumps([asdict(record) for record in history]),
        "log": json.dumps([astuple(row) for row in rows]),
        "scale": json.dumps(parts.precision.scaler.state_dict()),
        "threads": json.dumps(torch.get_num_threads()),
    }
    try:
        replace_file(
            path,
            save(
                {
                    name: value.detach().cpu().clone().contiguous()
                    for name, value in tensors.items()
                },
                metadata,
            ),
        )
    except OSError as error:
        raise StateError(f"{path}: the checkpoint cannot be written: {error}") from error


def read_checkpoint(path: Path) -> bytes | None:
    """The file, or None where there is none yet.

    Raises:
        StateError: it is there and cannot be read.
    """
    try:
        return path.read_bytes() if path.exists() else None
    except OSError as error:
        raise StateError(f"{path}: the checkpoint cannot be read: {error}") from error


def restore(
    path: Path, data: bytes, parts: Parts, say: Callable[[str], None]
) -> tuple[list[EpochRecord], list[LogRow]]:
    """Continue where the file was written: fills the parts and torch's generators, and gives
    history and log.

    Raises:
        StateError: the file is damaged, or belongs to other settings, data or another network; only
            in the last case are weights filled.
    """
    try:
        metadata, tensors = _metadata(data), load(data)
        saved = json.loads(metadata["settings"])
        history = [EpochRecord(**record) for record in json.loads(metadata["history"])]
        rows = [LogRow(*row) for row in json.loads(metadata["log"])]
        scale, threads = json.loads(metadata["scale"]), json.loads(metadata["threads"])
        random_states = {
            name: tensors.pop(f"random.{name}")
            for name in ("cpu", "cuda")
            if f"random.{name}" in tensors
        }
        best_epoch(history), random_states["cpu"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"{path}: not a checkpoint of this trainer, or damaged: {error}; delete it to start"
            " anew"
        ) from error
    for name, value in asdict(parts.settings).items():
        if saved.get(name) != value:
            raise StateError(
                f"{path}: the checkpoint was written with {name} = {saved.get(name)}, not {value};"
                " delete it to start anew"
            )
    try:
        parts.module.load_state_dict(_under("model.", tensors))
    except RuntimeError as error:
        raise StateError(f"{path}: the checkpoint is of another network: {error}") from error
    for name, parameter in parts.module.named_parameters():
        for key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
            if (kept := tensors.get(f"optimiser.{key}.{name}")) is not None:
                parts.optimiser.state[parameter][key] = torch.empty_like(parameter).copy_(kept)
        if (count := tensors.get(f"optimiser.step.{name}")) is not None:
            parts.optimiser.state[parameter]["step"] = count
    if scale:
        parts.precision.scaler.load_state_dict(scale)
    parts.best.weights = _under("best.", tensors)
    parts.best.consider(parts.module, history)
    torch.set_rng_state(random_states["cpu"])
    if "cuda" in random_states and parts.device.type == "cuda":
        torch.cuda.set_rng_state(random_states["cuda"], parts.device)
    say(f"train: resumed {path} after epoch {len(history)} of {parts.settings.epochs}")
    if threads != torch.get_num_threads():
        say(
            f"train: it was written with {threads} threads, now there are"
            f" {torch.get_num_threads()}: sums are rounded otherwise from here on"
        )
    return history, rows


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _metadata(data: bytes) -> dict[str, Any]:
    """The texts of a safetensors file: 8 bytes with the length of the header, which is JSON."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, Any] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


__all__ = ["Parts", "read_checkpoint", "restore", "save_checkpoint"]
