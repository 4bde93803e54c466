"""Several data sets of different kinds as one, in batches of one data set each."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core.data.detection import DetectionItems
from swath.core.data.loader import Key, Samples
from swath.core.errors import ConfigError, DataError, suggest
from swath.core.sample import Sample
from swath.mtl.strategies import RoundRobin, SetSize, Strategy, Turn


@dataclass
class Part:
    """A data set among others.

    Attributes:
        dataset: Map-style set of samples.
        batch_size: Samples of it in a batch of it; the last one of a pass may have fewer.
        transform: What `Sample.map` takes: augmentation in training, resizing in validation.
    """

    dataset: Samples
    batch_size: int = 8
    transform: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} of a data set must be at least 1")


class TaskMixture:
    """Data sets side by side, named ``"<head>/<data set>"``, such as ``"det/dior"``.

    In training, a batch is of one data set, the one whose turn it is; all processes of a run take
    the same in a step, and share out its samples in order. ``meta["dataset"]`` of each sample is
    the name.

    Args:
        parts: Data sets by name.
        strategy: Whose turn it is; default: one after the other.
        turn: Batches of a process in one turn. None: as many as ``accumulate`` in the config, so
            that every step is of one data set, and the run is the same on any number of processes
            that make the same steps. With 1, a step that accumulates mixes several; what is mixed
            depends on the number of processes.
        together: Every batch holds a batch of each data set instead.
        only: Heads (``"det"``) or names (``"det/dior"``) of the parts that are used; None: all.

    Attributes:
        parts: Those that are used.
        ids: ``"<name>/<id>"`` of every sample, where the data sets have ids.

    Raises:
        DataError: If there is no data set, or one is empty.
        ConfigError: If a name isn't of that form, or ``only`` names what there isn't.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        strategy: Strategy | None = None,
        turn: int | None = None,
        together: bool = False,
        only: Sequence[str] | None = None,
    ) -> None:
        for name, part in parts.items():
            head_of(name)
            if len(part.dataset) == 0:
                raise DataError(f"the data set of '{name}' is empty; check its folder and split")
        if not parts:
            raise DataError("a TaskMixture needs at least one data set in parts")
        if turn is not None and turn < 1:
            raise ConfigError(f"turn={turn} must be at least 1")
        self.parts = dict(parts) if only is None else {n: parts[n] for n in chosen(parts, only)}
        self.strategy, self.turn, self.together = strategy or RoundRobin(), turn, together
        self._ends = np.cumsum([len(part.dataset) for part in self.parts.values()])

    def __len__(self) -> int:
        """Samples of all data sets."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """A sample of one of the sets, transformed, with ``meta["dataset"]``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        name, part = list(self.parts.items())[number]
        sample = part.dataset[index - int(self._ends[number]) + len(part.dataset)]
        if part.transform is not None:
            sample = sample.map(part.transform)
        return replace(sample, meta={**sample.meta, "dataset": name})

    @property
    def starts(self) -> dict[str, int]:
        """Index of the first sample of each data set."""
        return dict(zip(self.parts, [0, *self._ends[:-1].tolist()], strict=True))

    @property
    def ids(self) -> list[str]:
        """Names of all samples."""
        return [
            f"{name}/{one}"
            for name, part in self.parts.items()
            for one in getattr(part.dataset, "ids", range(len(part.dataset)))
        ]

    def batches(
        self, seed: int, start: int, rank: int, world_size: int, accumulate: int = 1
    ) -> Iterator[list[Key]]:
        """Keys of the batches of a process; see `swath.core.data.loader.make_loader`.

        Args:
            seed: Of strategy and order.
            start: Batches of this process to leave out at the beginning.
            rank: Number of this process.
            world_size: Number of processes.
            accumulate: Batches of a process in a step.
        """
        turn = self.turn or accumulate
        shared = turn * world_size

        @lru_cache(maxsize=len(self.parts))
        def order(part: int, epoch: int) -> NDArray[np.int64]:
            length = len(list(self.parts.values())[part].dataset)
            return np.random.default_rng((seed, part, epoch)).permutation(length)

        first, inside = divmod(start, turn)
        for chosen_turns in islice(self._turns(seed, shared), first, None):
            group = [self._group(one, order(one.part, one.epoch), shared) for one in chosen_turns]
            for number in range(inside, turn):
                place = number * world_size + rank
                yield [key for part in group for key in part[place]]
            inside = 0

    def _turns(self, seed: int, shared: int) -> Iterator[list[Turn]]:
        """Whose turn it is, without end: one data set, or all; a turn has ``shared`` batches."""
        sizes = [
            SetSize(name, len(p.dataset), math.ceil(len(p.dataset) / (p.batch_size * shared)))
            for name, p in self.parts.items()
        ]
        if self.together:
            for number in count():
                yield [Turn(i, *divmod(number, size.batches)) for i, size in enumerate(sizes)]
        for turn in self.strategy.turns(sizes, seed):
            yield [turn]

    def _group(self, turn: Turn, order: NDArray[np.int64], shared: int) -> list[list[Key]]:
        """Keys of a turn's ``shared`` consecutive batches of one data set, in one of its passes."""
        length, size = len(order), list(self.parts.values())[turn.part].batch_size
        begin = turn.batch * size * shared
        if shared == 1:
            taken = order[begin : begin + size]
        else:  # no process may go without: the last turn of a pass takes from its beginning
            taken = order[np.arange(begin, begin + size * shared) % length]
        offset = int(self._ends[turn.part]) - length
        keys = [(turn.epoch, offset + int(index)) for index in taken]
        return [keys[i : i + size] for i in range(0, len(keys), size)]


def head_of(name: str) -> str:
    """The head that a data set is for: what its name begins with.

    Raises:
        ConfigError: If the name isn't ``"<head>/<data set>"``.
    """
    head, slash, rest = name.partition("/")
    if not (head and slash and rest):
        raise ConfigError(
            f"'{name}' can't name a data set here; write <head>/<data set>, such as det/dior"
        )
    return head


def chosen(parts: Mapping[str, Any], only: Sequence[str]) -> list[str]:
    """Names of the parts that heads or names in ``only`` stand for, in the parts' order.

    Raises:
        ConfigError: If one stands for none, or there are none.
    """
    known = list(dict.fromkeys([*map(head_of, parts), *parts]))
    for name in only:
        if name not in known:
            raise ConfigError(f"there is no task '{name}'{suggest(name, known)}")
    if not only:
        raise ConfigError(f"no task is chosen; choose some of {', '.join(known)}")
    return [name for name in parts if name in only or head_of(name) in only]


class WithObjects:
    """The images of a detection set that show an object, as the official training has them.

    Args:
        dataset: A `swath.core.data.detection.DetectionItems`, whose labels are read without the
            images; or any set of samples with ``"labels"``, which are all read once.

    Raises:
        DataError: If no image does.
    """

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset
        self._indices = [i for i in range(len(dataset)) if _number_of_objects(dataset, i)]
        if not self._indices:
            raise DataError("no image of the set shows an object; check its labels")
        names = getattr(dataset, "ids", range(len(dataset)))
        self.ids = [str(names[i]) for i in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        """One image with its objects."""
        return self.dataset[self._indices[index]]


def _number_of_objects(dataset: Samples, index: int) -> int:
    if isinstance(dataset, DetectionItems):
        return len(dataset.objects(index).names)
    return len(dataset[index].targets["labels"])


class Fold:
    """Every n-th sample of a set that has no splits, or all others.

    Args:
        dataset: Map-style set of samples.
        part: ``"test"`` for every n-th, ``"train"`` for the others.
        every: n.

    Raises:
        DataError: If the part is unknown.
    """

    def __init__(self, dataset: Samples, part: str, every: int = 5) -> None:
        if part not in ("train", "test"):
            raise DataError(f"part '{part}' is unknown; use 'train' or 'test'")
        self.dataset = dataset
        held = part == "test"
        self._indices = [i for i in range(len(dataset)) if (i % every == 0) == held]
        names = getattr(dataset, "ids", range(len(dataset)))
        self.ids = [str(names[i]) for i in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        """One sample."""
        return self.dataset[self._indices[index]]
