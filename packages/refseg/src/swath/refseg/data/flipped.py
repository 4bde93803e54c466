"""Flips of referring samples that turn their sentences too."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torchvision.transforms import v2

from swath.core.sample import Sample


def _both_ways(**pairs: str) -> dict[str, str]:
    return pairs | {b: a for a, b in pairs.items()}


ACROSS = _both_ways(left="right", leftmost="rightmost")
DOWN = _both_ways(above="below", top="bottom", topmost="bottommost", upper="lower")
"""What words become when an image is flipped across or down."""


class Flipped:
    """Samples of a referring set, each flipped across, down, both or not at all, at random.

    What is on the left comes to be on the right, and so says the sentence. Other words stay as they
    are: this is not for sentences about north or clockwise.

    Args:
        samples: A map-style set of samples with ``targets["sentence"]``.
    """

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """A sample, flipped as torch's random numbers say."""
        sample: Sample = self.samples[index]
        across, down = (torch.rand(2) < 0.5).tolist()
        if across:
            sample = _flipped(sample, v2.RandomHorizontalFlip(1.0), ACROSS)
        if down:
            sample = _flipped(sample, v2.RandomVerticalFlip(1.0), DOWN)
        return sample


def _flipped(sample: Sample, flip: v2.Transform, words: Mapping[str, str]) -> Sample:
    sample = sample.map(flip)
    sentence = re.sub(
        r"[a-zA-Z]+",
        lambda match: words.get(match[0].lower(), match[0]),
        sample.targets["sentence"],
    )
    return replace(sample, targets={**sample.targets, "sentence": sentence})
