"""Labelled and unlabelled images side by side: the data set of semi-supervised training."""

from dataclasses import replace
from typing import Literal

import torch

from swath.core.data.loader import Order, Samples
from swath.core.errors import ConfigError
from swath.core.sample import Sample


class SemiSupervised:
    """Every labelled sample with an unlabelled one and, at random, a partner for CutMix.

    Sample i is labelled image i and unlabelled image i; the shorter list is repeated to the length
    of the longer, which is the unlabelled one in pre-training: an epoch is one pass over it. The
    engine shuffles these pairs, and goes on exactly where a run was stopped.

    Args:
        labelled: Samples with masks.
        unlabelled: Samples whose masks, if any, aren't looked at.
        mix: Where the partner comes from: ``"other"``, another unlabelled image at random, one of
            its ``neighbours(index)`` if the set has such a method, as shards have; or
            ``"same"``, another view of the same image, which is what the official code gives in
            several processes, since both of its loaders draw the same order (dossier h.3).
        cutmix: Share of the samples that have a partner.
        stored_labels: Keep the unlabelled samples' masks, for `S4PTask` with ``labels="stored"``.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(
        self,
        labelled: Samples,
        unlabelled: Samples,
        mix: Literal["other", "same"] = "other",
        cutmix: float = 0.5,
        stored_labels: bool = False,
    ) -> None:
        if mix not in ("other", "same"):
            raise ConfigError(f"mix='{mix}' is unknown; use 'other' or 'same'")
        if not 0 <= cutmix <= 1:
            raise ConfigError(f"cutmix={cutmix} must be a share, 0 to 1")
        self.labelled, self.unlabelled = labelled, unlabelled
        self.mix, self.cutmix, self.stored_labels = mix, cutmix, stored_labels

    def __len__(self) -> int:
        """Pairs in an epoch; 0 if either list is empty."""
        lengths = len(self.labelled), len(self.unlabelled)
        return max(lengths) if min(lengths) else 0

    @property
    def epoch_order(self) -> Order | None:
        """The order of an epoch that the unlabelled set asks for, if it does."""
        order: Order | None = getattr(self.unlabelled, "epoch_order", None)
        return order if len(self) == len(self.unlabelled) else None

    def __getitem__(self, index: int) -> Sample:
        """A labelled sample whose targets hold an ``"unlabelled"`` one and perhaps a ``"mix"``.

        Draws the partner from torch's global generator.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = index % len(self.unlabelled)
        extra = {"unlabelled": self._image(number)}
        if float(torch.rand(())) < self.cutmix:
            extra["mix"] = self._image(self._partner(number))
        sample = self.labelled[index % len(self.labelled)]
        return replace(sample, targets=sample.targets | extra)

    def remarks(self) -> list[str]:
        """What the two sets have to say when training is over, if anything."""
        parts = (self.labelled, self.unlabelled)
        return [line for part in parts for line in getattr(part, "remarks", list)()]

    def _partner(self, number: int) -> int:
        everyone = range(len(self.unlabelled))
        near: range = getattr(self.unlabelled, "neighbours", lambda _: everyone)(number)
        if self.mix == "same" or len(near) == 1:
            return number
        drawn = near[int(torch.randint(len(near) - 1, ()))]
        return drawn + (drawn >= number)

    def _image(self, number: int) -> Sample:
        sample = self.unlabelled[number]
        return sample if self.stored_labels else replace(sample, targets={})
