"""The errors a user can cause and mend.

Every one of them is reported as a single line that says what is wrong, where, and what to do; the
`swath` command turns it into exit code 2. Anything else that escapes is a bug of ours (code 1).
"""

from collections.abc import Sequence
from itertools import zip_longest


class SwathError(Exception):
    """Base of all errors that the user can fix.

    Args:
        message: One line: the file or key, what is wrong with it, and what to do.
    """


class ConfigError(SwathError):
    """A config, an override or an argument doesn't make sense."""


class DataError(SwathError):
    """A data set, a label file or an image doesn't hold what it should."""


class RasterError(DataError):
    """A raster can't be read, is too large to be true, or lacks what was asked of it."""


class EmptySplitError(DataError):
    """A data set that could be read has no sample of the split that is asked for."""


class CheckpointError(SwathError):
    """A checkpoint is missing, damaged, or doesn't fit the model."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint could execute code if it were loaded; nothing of it was run."""


class TrainingError(SwathError):
    """Training can't go on; what was saved so far is kept."""


class WriteError(SwathError):
    """A file can't be written to the end, for want of room or by a fault of the disk."""


class MissingDependencyError(SwathError):
    """An optional dependency is needed for this and isn't installed."""


def suggest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """The tail of an error message that proposes the nearest known name.

    Args:
        name: What the user wrote.
        known: Every name that would have been accepted.

    Returns:
        ``"; did you mean 'x'?"`` if something is near, else ``"; known: a, b, c"``.
    """
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {shortened(sorted(known))}" if known else ""


def shortened(names: Sequence[str], most: int = 20) -> str:
    """Names with commas between; of a long list the first, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def differing(here: Sequence[str], there: Sequence[str], most: int = 3) -> str:
    """How two lists of names differ, for an error message.

    Args:
        here: Names in index order.
        there: Those that they should be, or be equal to.
        most: How many of the differences are told.

    Returns:
        Such as ``"16 for 15 (0: 'background' for 'ship', 1: 'ship' for 'plane' and 14 more)"``.
    """
    pairs = [
        f"{i}: {a!r} for {b!r}" if a and b else f"{i}: {a!r} is too many" if a else f"{i}: no {b!r}"
        for i, (a, b) in enumerate(zip_longest(here, there))
        if a != b
    ]
    return f"{len(here)} for {len(there)} ({shortened(pairs, most)})"
