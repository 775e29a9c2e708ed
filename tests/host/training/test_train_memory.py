"""Running out of memory is one named error that says what to change."""

from __future__ import annotations

import pytest
import torch
from toy_training import WithoutNorm, network, run

from edgeadapt.errors import BudgetError, InputError
from edgeadapt.host.training.train import TrainingMemoryError

MORE_THAN_ANY_MACHINE = 2**57


class Greedy(WithoutNorm):
    """Asks torch's own allocator for more than there is, in training or in every call."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always = always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training or self.always:
            torch.empty(MORE_THAN_ANY_MACHINE)
        return super().forward(x)


class Raising(WithoutNorm):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    "always", [False, True], ids=["in the first step", "in the first look at the network"]
)
def test_what_the_allocator_refuses_is_named_with_batch_and_shape(always: bool) -> None:
    with pytest.raises(
        TrainingMemoryError,
        match=(
            r"out of memory on cpu with train\.batch = 16 samples of shape \(12, 12\).*lower"
            r" train\.batch"
        ),
    ) as caught:
        run(Greedy(always), augment="none")
    assert isinstance(caught.value, BudgetError) and "allocate" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of"
            " 8.00 GiB"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] data. DefaultCPUAllocator: not enough memory: you"
            " tried to allocate 4 bytes."
        ),
    ],
    ids=["python", "gpu", "cublas", "windows"],
)
def test_other_allocators_are_named_too(error: Exception) -> None:
    with pytest.raises(TrainingMemoryError, match=r"lower train\.batch"):
        run(Raising(error))


def test_other_failures_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(Raising(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(InputError, match="does not take images"):
        run(WithoutNorm(in_channels=3))


def test_the_checkpoint_before_it_is_still_there(tmp_path) -> None:
    path = tmp_path / "a"
    run(network(), epochs=2, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(TrainingMemoryError):
        run(Greedy(False), epochs=2, checkpoint=path)
    assert path.read_bytes() == before
