"""A loaded graph whose tensors stay on a device: ports are copied there once, outputs back once,
and what is written stays.

Every call hands ONNX Runtime inputs and outputs that lie on the device already, so it copies
nothing itself but what its own nodes on the CPU need. Outputs never share memory with inputs: all
inputs are held until the run has ended, and what is taken from the pool is held by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import _pybind_state as ort

from edgeadapt.errors import InputError
from edgeadapt.runtime import ArrayLike, Buffer, Tensors
from edgeadapt_onnxruntime._device_pool import DeviceBuffer, DevicePool
from edgeadapt_onnxruntime._executable import OnnxExecutable


class DeviceExecutable(OnnxExecutable):
    """See ``edgeadapt.runtime.Executable``.

    Args:
        name: of the graph, for messages.
        session: the loaded model.
        pool: the device's memory.
        frozen: arrays that must live as long as the session.
        is_rare: give the working memory back after each run.
    """

    def __init__(
        self,
        name: str,
        session: onnxruntime.InferenceSession,
        pool: DevicePool,
        frozen: Mapping[str, NDArray[Any]],
        is_rare: bool = False,
    ) -> None:
        super().__init__(name, session, pool, frozen, is_rare)
        self._device_pool = pool
        if is_rare and pool.device != "cpu":
            self._options.add_run_config_entry(
                "memory.enable_memory_arena_shrinkage",
                f"cpu:0;gpu:{pool.device.partition(':')[2] or 0}",
            )

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        """Run once; thread-safe. Arguments, results and errors are those of ``OnnxExecutable``;
        tensors must lie on this device.
        """
        arrays = [self._array(name, dtype, ports.get(name)) for name, dtype in self._ports]
        shapes = tuple([array.shape for array in arrays])
        plan = self._plans.get(shapes)
        if plan is None or len(ports) != len(arrays):
            plan = self._plan(shapes, ports)
        reads = [tensors.get(name) for name in self._reads]
        if not all(self._is_here(buffer) for buffer in reads):
            self._refuse(tensors)
        pool, crossed = self._device_pool, self._device_pool.transfers
        # until this call returns: nothing it reads can be handed out meanwhile
        held = [*(pool.put(array, crossed.ports) for array in arrays), *reads]
        feeds = _vector(held)
        if not plan.is_settled:
            return self._run_unplanned(feeds, tensors)
        outputs = {
            name: pool.take(pool.layout(dtype, shape)) for name, shape, dtype in plan.outputs
        }
        written = {name: pool.take(layout) for name, layout in plan.writes}
        try:
            self._run(
                self._options,
                self._feed_names,
                feeds,
                self._fetch_names,
                _vector([*outputs.values(), *written.values()]),
                self._devices,
            )
        except Exception as error:
            self._refuse(tensors, error)
        return {name: buffer.read(crossed.outputs) for name, buffer in outputs.items()}, Tensors(
            written
        )

    def _run_unplanned(
        self, feeds: Any, tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        """A graph whose output shapes do not follow from its ports: its results come to the host,
        and what it writes goes back.
        """
        results, written = super()._run_unplanned(feeds, tensors)
        crossed = self._device_pool.transfers
        for array in results.values():
            crossed.outputs.add(array.nbytes)
        for buffer in written.values():
            crossed.downloads.add(buffer.nbytes)
            crossed.uploads.add(buffer.nbytes)
        return results, written

    def _array(self, name: str, dtype: np.dtype[Any], value: ArrayLike) -> NDArray[Any]:
        if type(value) is np.ndarray and value.dtype is dtype and value.flags.c_contiguous:
            return value
        return self._admit(name, dtype, value)

    def _is_here(self, buffer: Buffer | None) -> bool:
        return isinstance(buffer, DeviceBuffer) and buffer.pool.device == self._device_pool.device

    def _refuse(self, tensors: Tensors, error: Exception | None = None) -> NoReturn:
        """Say where a tensor lies that is not on this device: ONNX Runtime would copy it at every
        call, without a word.
        """
        for name in self._reads:
            buffer = tensors.get(name)
            if buffer is not None and not self._is_here(buffer):
                where = (
                    f"on {buffer.pool.device}"
                    if isinstance(buffer, DeviceBuffer)
                    else f"elsewhere, as a {type(buffer).__name__} of another runtime"
                )
                raise InputError(
                    f"graph {self._name!r}: tensor {name!r} lies {where}, not on"
                    f" {self._device_pool.device}; upload it here first"
                ) from error
        super()._refuse(tensors, error)


def _vector(buffers: list[Any]) -> Any:
    """ONNX Runtime's own list, of the values of these buffers."""
    values = ort.OrtValueVector()
    for buffer in buffers:
        values.push_back(buffer.value)
    return values


__all__ = ["DeviceExecutable"]
