"""Several data sets as one, each sample knowing which it is from."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swath.core.data.loader import Samples
from swath.core.errors import DataError
from swath.core.sample import Sample


class MultiDataset:
    """Data sets side by side; ``meta["task"]`` of each sample is the name of its set.

    With ``repeat``, every set is repeated to the length L of the longest, and the engine gets an
    order in which the sets take turns: with T sets, any batch whose size is a multiple of T holds
    as many samples of each, in every process, and an epoch is T * L samples. This is how MoE-MDF is
    trained. A repeated image is augmented anew each time.

    Args:
        parts: Map-style sets of samples, by the name of their task.
        repeat: False gives each sample once, set after set: to judge on.

    Raises:
        DataError: If there is no set, or one is empty.

    Source:
        S5 dossier c.1 (`md_finetune.py`: four loaders over lists repeated to the longest, zipped).
    """

    def __init__(self, parts: Mapping[str, Samples], repeat: bool = True) -> None:
        if not parts:
            raise DataError("a MultiDataset needs at least one data set in parts")
        for name, part in parts.items():
            if len(part) == 0:
                raise DataError(f"the data set of '{name}' is empty; check its folder and split")
        self.parts, self.repeat = dict(parts), repeat
        self.lengths = [len(part) for part in parts.values()]
        if repeat:
            self.lengths = [max(self.lengths)] * len(parts)
            self.epoch_order = self._in_turns
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """A sample of one of the sets, with ``meta["task"]``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        name, part = list(self.parts.items())[number]
        place = index - int(self._ends[number]) + self.lengths[number]
        sample = part[place % len(part)]
        return replace(sample, meta={**sample.meta, "task": name})

    def _in_turns(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """A permutation of each set, taken in turns; an `swath.core.data.loader.Order`."""
        longest = self.lengths[0]
        columns = [
            number * longest + np.random.default_rng((seed, epoch, number)).permutation(longest)
            for number in range(len(self.parts))
        ]
        return np.stack(columns, axis=1).reshape(-1)
