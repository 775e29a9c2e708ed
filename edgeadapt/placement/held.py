"""What somebody else holds, looked through by the thread of the trials while others add to it and
let go.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

One = TypeVar("One")


class Held(Generic[One]):
    """Forgets what nobody else holds. A ``WeakSet`` raises where something is added while another
    thread looks through it.
    """

    def __init__(self) -> None:
        self._held: weakref.WeakValueDictionary[int, One] = weakref.WeakValueDictionary()

    def add(self, one: One) -> None:
        self._held[id(one)] = one

    def __iter__(self) -> Iterator[One]:
        """Those that are there now."""
        # one step for other threads: a list of the references
        return iter([one for ref in self._held.valuerefs() if (one := ref()) is not None])


__all__ = ["Held"]
