"""A run so small that it takes a second."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from swath.core.config import TrainConfig
from swath.core.data.loader import SampleStream
from swath.core.engine.pieces import adamw_cosine
from swath.core.models.unet import UNet
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

torch.set_num_threads(1)


class Squares:
    """Noise with a brighter square, whose place the mask tells."""

    def __init__(
        self, count: int = 12, size: int = 16, classes: int = 2, interrupt_after: int | None = None
    ) -> None:
        self.count, self.size, self.classes = count, size, classes
        self.interrupt_after = interrupt_after
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if self.interrupt_after is not None and len(self.read) == self.interrupt_after:
            os.kill(os.getpid(), signal.SIGINT)
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(
            0, 100, (3, self.size, self.size), generator=generator, dtype=torch.uint8
        )
        mask = torch.zeros(self.size, self.size, dtype=torch.uint8)
        y, x = torch.randint(0, self.size - 6, (2,), generator=generator).tolist()
        image[:, y : y + 6, x : x + 6] += 120
        mask[y : y + 6, x : x + 6] = self.classes - 1
        return Sample(
            image, {"mask": tv_tensors.Mask(mask)}, meta={"id": str(index), "path": f"{index}.tif"}
        )


class Tape(SampleStream):
    """The same samples one after the other, each epoch beginning with another one."""

    def __init__(self, count: int = 12) -> None:
        self.squares = Squares(count)

    def __len__(self) -> int:
        return self.squares.count

    def read(self, epoch: int, start: int) -> Iterator[Sample]:
        for place in range(start, len(self)):
            yield self.squares[(place + 5 * epoch) % len(self)]


class Flips:
    """A random augmentation."""

    def __call__(self, *pieces: Any) -> Any:
        return v2.RandomHorizontalFlip()(v2.RandomVerticalFlip()(*pieces))


class Pixelwise(nn.Module):
    """Without batch norm, so that accumulated and large batches are the same."""

    def __init__(self, poison: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 3, padding=1)
        self.poison = poison
        self.calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = self.layer(image)
        return scores * float("nan") if self.poison and self.calls > 5 else scores


@pytest.fixture
def toy() -> Callable[..., TrainConfig]:
    """Makes the config of a run; keyword arguments replace its fields."""

    def make(**changes: Any) -> TrainConfig:
        fields = {
            "model": Spec(UNet, in_channels=3, num_classes=2, width=4, depth=2, dropout=0.3),
            "task": Spec(SegmentationTask, classes=["ground", "square"]),
            "train": Spec(Squares),
            "val": Spec(Squares, count=4),
            "augment": Spec(Flips),
            "optimizer": adamw_cosine(lr=3e-3, warmup=4),
            "iterations": 12,
            "batch_size": 4,
            "num_workers": 0,
            "val_every": 5,
            "checkpoint_every": 6,
            "log_every": 2,
        }
        return TrainConfig(**(fields | changes))

    return make


@pytest.fixture
def squares() -> type[Squares]:
    return Squares


@pytest.fixture
def tape() -> type[Tape]:
    return Tape


@pytest.fixture
def pixelwise() -> type[Pixelwise]:
    return Pixelwise
