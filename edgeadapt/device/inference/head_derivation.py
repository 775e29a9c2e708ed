"""What follows from evidence: the numerics that the manifest names, with the factory's share of the
sums weighed as a head's choice says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.bundle.schema import Manifest
from edgeadapt.device.inference.state import AS_SHIPPED, HeadChoice
from edgeadapt.device.numerics.linalg import NUMERICS, one_thread
from edgeadapt.errors import StateError
from edgeadapt.runtime import Runtime, Tensors

F32 = NDArray[np.float32]
_LINEAR = "head.weight"  # logits are proportional to it
_PENALTIES = ("shrinkage", "penalty")  # arguments of numerics that a head's choice multiplies


class HeadDerivation:
    """Derived tensors from evidence tensors, for one bundle on one runtime.

    Args:
        factory: the values that the bundle brings.
    """

    def __init__(
        self,
        bundle: Bundle,
        manifest: Manifest,
        runtime: Runtime,
        factory: Mapping[str, NDArray[Any]],
    ) -> None:
        self._bundle, self._manifest, self._runtime = bundle, manifest, runtime
        self._factory_sums: dict[str, F32] = {
            name: factory[name] for name in manifest.policy.learn.weighted
        }

    def __call__(
        self,
        tensors: Tensors,
        head: HeadChoice = AS_SHIPPED,
        classes: Sequence[str | None] = (),
        *,
        field_only: bool = False,
    ) -> Tensors:
        """``tensors`` with everything recomputed that follows from the evidence.

        Args:
            head: how much the factory's share of the head's sums counts, the shrinkage, and how
                sure the head is.
            classes: by slot, as they are now; a slot that the factory's class left has no factory
                share. Empty: as at the factory.
            field_only: the head's sums have no factory share yet, as those of one condition's
                labels.
        """
        share = head.factory_weight - (0.0 if field_only else 1.0)
        frozen = self._bundle.frozen
        for numeric in self._manifest.numerics:
            held = [name for name in numeric.reads if name not in frozen]
            values = {
                **self._runtime.download(tensors, held),
                **{name: frozen[name] for name in numeric.reads if name in frozen},
            }
            if share:
                values |= {
                    name: values[name] + np.float32(share) * self._factory_share(name, classes)
                    for name in held
                    if name in self._factory_sums
                }
            arguments = {
                name: value * (head.shrinkage if name in _PENALTIES else 1.0)
                for name, value in numeric.arguments.items()
            }
            with one_thread():
                try:
                    results = NUMERICS[numeric.numeric](
                        *(values[name] for name in numeric.reads), **arguments
                    )
                except np.linalg.LinAlgError as error:
                    what = ", ".join(numeric.writes)
                    raise StateError(f"{what} cannot be derived: {error}") from error
            written = dict(zip(numeric.writes, results, strict=True))
            if head.temperature != 1.0 and _LINEAR in written:
                written[_LINEAR] = written[_LINEAR] / np.float32(head.temperature)
            tensors = self._runtime.upload(written).over(tensors)
        return tensors

    def _factory_share(self, name: str, classes: Sequence[str | None]) -> F32:
        """A sum as the bundle brings it, without classes that left their slots."""
        value = self._factory_sums[name]
        axis = self._manifest.tensor(name).class_axis
        known = self._manifest.classes
        gone = [slot for slot, was in enumerate(known) if classes and classes[slot] != was]
        if axis is None or not gone:
            return value
        value = value.copy()
        value[(slice(None),) * axis + (gone,)] = 0
        return value
