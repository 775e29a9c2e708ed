"""Where a run computes and with how many bits: device, mixed precision, and kernels that repeat."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.training.settings import DeviceName, PrecisionName, require_one_of

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(asked: str, local_rank: int = 0) -> torch.device:
    """``"auto"`` is the GPU if torch can use one, else the CPU; of several GPUs every process has
    the one of its number.

    Raises:
        InputError: a GPU was asked for, and torch has none for this process.
    """
    require_one_of("device", asked, DeviceName)
    count = torch.cuda.device_count() if asked != "cpu" and torch.cuda.is_available() else 0
    if asked == "cuda" and count <= local_rank:
        raise InputError(
            f'train.device = "cuda": process {local_rank} of this machine needs GPU {local_rank},'
            f' torch sees {count}; use "auto" or "cpu"'
        )
    return torch.device("cuda", local_rank) if count > local_rank else torch.device("cpu")


def choose_precision(asked: str, device: torch.device) -> str:
    """``"auto"`` is bfloat16 on a GPU that has it, float16 on another, and float32 on a CPU.

    Raises:
        InputError: float16 on a CPU, where the small exponent costs accuracy and saves no time.
    """
    require_one_of("precision", asked, PrecisionName)
    if asked == "float16" and device.type == "cpu":
        raise InputError(
            'train.precision = "float16" needs a GPU; on a CPU use "float32" or "bfloat16"'
        )
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


class MixedPrecision:
    """Autocast around the forward pass; for float16 the loss is scaled, so that small gradients do
    not vanish.

    Parameters, moments, loss and validation stay float32. Source: Micikevicius et al., ICLR 2018,
    arXiv 1710.03740.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self._type, self._device = _TYPES[precision], device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")

    def autocast(self) -> AbstractContextManager[object]:
        """Around the forward pass; nothing at float32, so that its results are those without this
        class.
        """
        return (
            nullcontext()
            if self._type is torch.float32
            else torch.autocast(self._device.type, self._type)
        )

    def step(
        self,
        loss: Tensor,
        optimiser: torch.optim.Optimizer,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Backward pass, ``between``, and one step; float16 leaves a step out whose gradients
        overflowed, and lowers the scale.
        """
        self.scaler.scale(loss).backward()
        between()
        self.scaler.step(optimiser)
        self.scaler.update()


@contextmanager
def repeatable_kernels(device: torch.device) -> Iterator[None]:
    """On a GPU: deterministic kernels where torch has them (it warns where it has none), no
    autotuning, no TF32 in float32.

    On a CPU nothing needs to change: the same number of threads gives the same sums.
    """
    if device.type == "cpu":
        yield
        return
    # read when cuBLAS starts; without it its results may differ between runs
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


__all__ = ["MixedPrecision", "choose_device", "choose_precision", "repeatable_kernels"]
