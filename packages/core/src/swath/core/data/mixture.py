"""Data sets made of others: kept, selected, relabelled, several as one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import torch
from torchvision import tv_tensors

from swath.core.data.loader import Samples
from swath.core.errors import DataError, suggest
from swath.core.sample import Sample


class InMemory:
    """A set whose samples are kept once they have been read: for sets that are slow to read.

    Each process that loads data keeps what it has read itself. What a set draws at random is drawn
    once; augmentation belongs into a transform.

    Args:
        dataset: Map-style set of samples.

    Attributes:
        ids: The set's own, or numbers where it has none.
    """

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset
        self.ids = [str(name) for name in getattr(dataset, "ids", range(len(dataset)))]
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The sample, read if it hasn't been."""
        if index not in self._kept:
            self._kept[index] = self.dataset[index]
        return self._kept[index]


class Selected:
    """Some samples of a set, by their ids.

    Args:
        dataset: Map-style set of samples with ``ids``.
        ids: Which ones, in this order.

    Raises:
        DataError: If the set has no such id.
    """

    def __init__(self, dataset: Any, ids: Sequence[str]) -> None:
        self.dataset, self.ids = dataset, list(ids)
        known = {name: i for i, name in enumerate(dataset.ids)}
        for name in self.ids:
            if name not in known:
                raise DataError(f"the set has no sample '{name}'{suggest(name, list(known))}")
        self._indices = [known[name] for name in self.ids]
        self.classes, self.palette = dataset.classes, dataset.palette
        self.ignore_index: int = dataset.ignore_index

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """The sample of that id."""
        sample: Sample = self.dataset[self._indices[index]]
        return sample


class Relabelled:
    """A segmentation set whose masks are rewritten into another list of classes.

    Args:
        dataset: Map-style set of samples with ``"mask"``, ``classes`` and ``ignore_index``.
        names: For each of its classes the name it gets; None ignores the class. Several classes may
            get one name.
        labels: The new names in index order (classes, then groups of classes; see
            `swath.core.partial_labels`).

    Raises:
        DataError: If a class has no entry in ``names``, or a new name isn't among ``labels``.
    """

    def __init__(
        self, dataset: Any, names: Mapping[str, str | None], labels: Sequence[str]
    ) -> None:
        self.dataset = dataset
        self.ids: list[str] = list(dataset.ids)
        self.ignore_index = 255
        table = torch.full((256,), self.ignore_index, dtype=torch.uint8)
        for index, name in enumerate(dataset.classes):
            if name not in names:
                raise DataError(f"class '{name}' has no new name{suggest(name, list(names))}")
            new = names[name]
            if new is not None and new not in labels:
                raise DataError(f"'{new}' isn't among the labels{suggest(new, list(labels))}")
            table[index] = self.ignore_index if new is None else list(labels).index(new)
        table[dataset.ignore_index] = self.ignore_index
        self._table = table

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The sample with its mask rewritten, uint8."""
        sample: Sample = self.dataset[index]
        stored = sample.targets["mask"].as_subclass(torch.Tensor)
        if stored.dtype == torch.uint8:  # the usual case, ten times as fast
            mask = torch.from_numpy(cv2.LUT(stored.numpy(), self._table.numpy()))
        else:
            mask = self._table[stored.long()]
        return replace(sample, targets={"mask": tv_tensors.Mask(mask)})


class Mixture:
    """Data sets one after the other, each repeated as often as it should be seen per epoch.

    Args:
        parts: Map-style sets of samples.
        repeats: How often each is seen in an epoch, >= 0; default once.

    Attributes:
        ids: ``"<part>/<id>"`` of every sample.

    Raises:
        DataError: If there isn't one repeat per part, or nothing is left.
    """

    def __init__(self, parts: Sequence[Any], repeats: Sequence[int] | None = None) -> None:
        times = list(repeats) if repeats is not None else [1] * len(parts)
        if len(times) != len(parts) or min(times, default=0) < 0:
            raise DataError(f"{len(parts)} parts need as many repeats, 0 or more; got {times}")
        self.parts = list(parts)
        self._keys = [
            (part, index)
            for part, count in enumerate(times)
            for _ in range(count)
            for index in range(len(self.parts[part]))
        ]
        if not self._keys:
            raise DataError("the mixture is empty; give at least one part a repeat")
        self.ids = [f"{part}/{self.parts[part].ids[index]}" for part, index in self._keys]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        """The sample that its part returns."""
        part, inner = self._keys[index]
        sample: Sample = self.parts[part][inner]
        return sample
