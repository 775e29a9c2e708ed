"""The few named errors. Each message carries the offending value and says what to do next."""

from __future__ import annotations


class EdgeadaptError(Exception):
    """Base of every error that edgeadapt raises on purpose; the command line prints one line."""


class BundleError(EdgeadaptError):
    """A bundle is damaged, edited, unsigned where a signature is required, or from a newer version.

    The message names the member of the archive and the reason.
    """


class InputError(EdgeadaptError, ValueError):
    """An input was refused: wrong shape, dtype, range, or values not finite."""


class UnknownClassError(EdgeadaptError, KeyError):
    """A label names a class the learner does not have; the message offers the closest one."""

    def __str__(self) -> str:  # KeyError would quote the message
        return str(self.args[0]) if self.args else ""


class CapacityError(EdgeadaptError):
    """All class slots or domain slots that were fixed at export are in use."""


class BudgetError(EdgeadaptError):
    """What was asked for cannot fit into the declared budget; the message has the numbers."""


class StateError(EdgeadaptError):
    """The state folder is locked, foreign, damaged, read-only or full, or belongs to another
    feature space.
    """


class StorageError(StateError):
    """The disk of the state folder is full or failing. Nothing was changed; predictions go on, and
    labels are taken again once it recovers.
    """


class CompileError(EdgeadaptError):
    """A torch function could not become a checked graph; the message names the op and a way out."""


class RuntimeUnavailable(EdgeadaptError):
    """The runtime that was asked for is not installed or cannot run here; the message says why."""


class DeviceError(RuntimeUnavailable):
    """A device failed or has no room, whatever the call was; ``code`` is its driver's, 0 where
    there is none.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class RecipeError(EdgeadaptError, ValueError):
    """A recipe or configuration file has an unknown key or a value that is not allowed."""


class InputWarning(UserWarning):
    """Inputs are accepted but look wrong: they fit calibration better after a channel swap, say."""


class CompileWarning(UserWarning):
    """A graph is right and looks wrong: a learning step that does not learn a toy problem."""
