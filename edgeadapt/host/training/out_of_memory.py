"""An allocator's failure in the words of the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from edgeadapt.errors import BudgetError, InputError

_SIGNS = (
    "not enough memory",
    "DefaultCPUAllocator",
    "can't allocate memory",
    "out of memory",
    "ALLOC_FAILED",
)


class TrainingMemoryError(BudgetError):
    """A step does not fit into memory; the message has the batch, the shape of a sample and the
    device.
    """


@contextmanager
def naming_out_of_memory(batch: int, shape: Sequence[int], device: torch.device) -> Iterator[None]:
    """Turn what torch says when an allocation fails, on a GPU or a CPU, into one error that says
    what to change.

    Raises:
        TrainingMemoryError: memory ran out inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError, InputError) as error:
        # the first forward pass reports a failure as a refused input
        reason = error.__cause__ if isinstance(error, InputError) else error
        if not _is_out_of_memory(reason):
            raise
        said = " ".join(str(reason).split())[:160] or "MemoryError"
        raise TrainingMemoryError(
            f"out of memory on {device.type} with train.batch = {batch} samples of shape"
            f" {tuple(shape)} per process: lower train.batch, or use smaller samples or a smaller"
            f" network ({said})"
        ) from error


def _is_out_of_memory(error: BaseException | None) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


__all__ = ["TrainingMemoryError", "naming_out_of_memory"]
