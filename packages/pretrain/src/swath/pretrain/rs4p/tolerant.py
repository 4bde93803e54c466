"""Data sets of which a share of the samples may be broken: `Tolerant`."""

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from swath.core.errors import DataError
from swath.core.sample import Sample

_NAMED = 5


class Tolerant(ABC):
    """Samples some of which may be broken: the next one that isn't takes the place.

    What the workers of a loader find is counted together. The processes of a distributed run each
    count what they read themselves, so that a run of N may meet N times ``max_broken``; and a run
    that resumes begins to count anew.

    Args:
        where: What messages call the set.
        count: Number of samples.
        max_broken: Share of the samples that may be broken; beyond it, and with 0 at the first, it
            is an error.
    """

    def __init__(self, where: str, count: int, max_broken: float) -> None:
        self._where, self._count, self._max_broken = where, count, max_broken
        # one flag a sample, and not none, which can't be shared; set by any worker of a loader
        self._broken = torch.zeros(max(count, 1), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return self._count

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The samples' names."""

    @abstractmethod
    def _read(self, place: int) -> Sample:
        """Read one sample; a `DataError` says that it is broken."""

    def __getitem__(self, index: int) -> Sample:
        """Read one sample; of a broken one, the next that isn't.

        Raises:
            DataError: If more than ``max_broken`` of the samples are broken: the first ones, and
                what is wrong with them.
        """
        first = range(len(self))[index]
        for place in itertools.chain(range(first, len(self)), range(first)):
            if self._broken[place]:
                self._judge()
                continue
            try:
                return self._read(place)
            except DataError as error:
                self._broken[place] = True
                self._judge()
                warnings.warn(f"{error}; the next image takes its place", stacklevel=2)
        raise DataError(f"none of the images can be read: {self._told()}")

    def remarks(self) -> list[str]:
        """What there is to say when training is over: which images couldn't be read."""
        return [f"{self._told()}; others took their places"] if self._broken.any() else []

    def _judge(self) -> None:
        if int(self._broken.sum()) > self._max_broken * len(self):
            raise DataError(
                f"{self._told()}, more than max_broken={self._max_broken:g} allows; mend or "
                "remove them, or raise max_broken to leave them out"
            )

    def _told(self) -> str:
        broken = self._broken.nonzero()[:, 0].tolist()
        first = "; ".join(self._why(place) for place in broken[:_NAMED])
        rest = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        return f"{self._where}: {len(broken)} of {len(self)} images can't be read ({first}{rest})"

    def _why(self, place: int) -> str:
        """Found out anew: another process may have found it first."""
        try:
            self._read(place)
        except DataError as error:
            return str(error)
        return f"{self.ids[place]}: mended since"
