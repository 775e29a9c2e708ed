"""One process or several (``torchrun``): who takes which samples, and what they agree on.

Every process takes its part of the same batch; the mean of their gradients is the gradient of the
whole batch. The order of the samples is drawn from the seed alone and is the same in every process;
augmentation and dropout are drawn from the seed, the epoch and the number of the process, so that
no two processes draw the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgeadapt.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """The processes of a run: the number of this one, on its machine and over all, and how many
    there are.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """The one that prints and writes."""
        return self.rank == 0

    def begin_alike(self, module: nn.Module) -> None:
        """Every process takes the weights and statistics of the first."""
        if self.count > 1:
            module.load_state_dict(self.share(module.state_dict()))

    def average_gradients(self, module: nn.Module) -> None:
        """After the backward pass: every gradient becomes its mean over all processes, in one
        message. One that no process has stays None.

        torch's ``DistributedDataParallel`` overlaps this with the backward pass, which pays for
        networks larger than those trained here; but in torch 2.13 it holds the threads of the group
        past its end, and now and then that aborts the interpreter on its way out.
        """
        if self.count == 1:
            return
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        has = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in parameters
        ]
        message = torch.cat(
            [has.to(gradients[0]), *(gradient.reshape(-1) for gradient in gradients)]
        )
        dist.all_reduce(message)
        used, *means = message.split([len(has), *(gradient.numel() for gradient in gradients)])
        for is_used, parameter, gradient, mean in zip(
            used.tolist(), parameters, gradients, means, strict=True
        ):
            if is_used:
                parameter.grad = gradient.copy_(mean.view(gradient.shape)).div_(self.count)

    def part(self, rows: Tensor) -> Tensor:
        """This process's share of the rows of a batch."""
        size = len(rows) // self.count
        return rows[self.rank * size : (self.rank + 1) * size] if self.count > 1 else rows

    def sum(self, *values: float) -> list[float]:
        """Every value added up over all processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def share(self, value: Any) -> Any:
        """What the first process has."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def average_statistics(self, module: nn.Module) -> None:
        """Running statistics (batch norm) become the mean over all processes, each of which saw its
        own part of every batch.
        """
        if self.count == 1:
            return
        for norm in module.modules():
            for statistic in (
                getattr(norm, name, None) for name in ("running_mean", "running_var")
            ):
                if isinstance(statistic, Tensor):
                    dist.all_reduce(statistic)
                    statistic /= self.count


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """The processes that torchrun started, joined for the length of the block; a single one where
    it did not.

    Raises:
        InputError: torchrun's variables are not complete, or this torch has no distributed package.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if not dist.is_available():
        if wanted > 1:
            raise InputError(
                f"WORLD_SIZE = {wanted}, but this build of torch cannot train in several processes"
            )
        yield Ranks()
        return
    ours = wanted > 1 and not dist.is_initialized()
    if ours:
        has_gpu = device != "cpu" and torch.cuda.is_available()
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
        except ValueError as error:
            raise InputError(
                f"WORLD_SIZE = {wanted}, but the processes cannot join: {error}; start them with"
                " torchrun"
            ) from error
    try:
        yield (
            Ranks(dist.get_rank(), dist.get_world_size(), local_rank())
            if dist.is_initialized()
            else Ranks()
        )
    finally:
        if ours:
            dist.destroy_process_group()


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first_process() -> bool:
    """Is this the process that writes? Also before and after the processes are joined."""
    return int(os.environ.get("RANK", "0")) == 0


class Order:
    """The order of the samples, epoch by epoch.

    A single process draws everything from torch's generator. Several draw the order from one of
    their own, which is the same in each, and seed torch's generator anew in every epoch.

    Args:
        count: samples.
        seed: of the run.
        ranks: the processes.
        done: epochs that are over.
    """

    def __init__(self, count: int, seed: int, ranks: Ranks, done: int) -> None:
        self._count, self._seed, self._ranks = count, seed, ranks
        self._generator = torch.Generator().manual_seed(seed)
        if ranks.count > 1:
            for _ in range(done):
                torch.randperm(count, generator=self._generator)

    def of(self, epoch: int) -> Tensor:
        """A permutation of the rows, the next one; ``epoch`` counts from 0."""
        if self._ranks.count == 1:
            return torch.randperm(self._count)
        mixed = np.random.SeedSequence((self._seed, epoch, self._ranks.rank)).generate_state(
            1, np.uint64
        )
        torch.manual_seed(int(mixed[0]))
        return torch.randperm(self._count, generator=self._generator)


__all__ = ["Order", "Ranks", "is_first_process", "joined_ranks", "local_rank"]
