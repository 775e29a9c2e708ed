"""A stored value that we cannot have written becomes a named error."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from safetensors import SafetensorError

from edgeadapt.device.storage.folder import refusal
from edgeadapt.errors import EdgeadaptError, StateError

Function = TypeVar("Function", bound=Callable[..., Any])

# LookupError, ValueError and the like: a stored value has another type, form or meaning
UNREADABLE: tuple[type[Exception], ...] = (sqlite3.Error, SafetensorError, ValueError, LookupError)
UNREADABLE += (TypeError, AttributeError, OverflowError, RecursionError)


@contextmanager
def raise_if_corrupt(folder: Path | None) -> Iterator[None]:
    """Around code that only reads what was stored: what it cannot read is damage.

    Raises:
        StateError: a stored value has another type, form or meaning than we wrote.
        StorageError: the disk fails.
    """
    try:
        yield
    except EdgeadaptError:
        raise
    except sqlite3.OperationalError as error:
        raise refusal(folder, error) from error
    except UNREADABLE as error:
        what = f"{type(error).__name__}: {error}"
        raise StateError(
            f"the journal in {folder or 'memory'} is damaged: {what:.300}; restore the folder from"
            " a copy, or open an empty one"
        ) from error


def reads(function: Function) -> Function:
    """For functions whose first argument is a journal, its own methods among them."""

    @functools.wraps(function)
    def read(journal: Any, *arguments: Any, **named: Any) -> Any:
        with raise_if_corrupt(journal.folder):
            return function(journal, *arguments, **named)

    return cast(Function, read)
