"""A small archive, and a model whose answers can be worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from swath.core.inference.predictor import Predictor
from swath.core.segmentation import SegmentationTask

torch.set_num_threads(1)
cv2.setNumThreads(0)

CLASSES = ("dark", "bright", "red")


class Brightness(nn.Module):
    """Class 0 below mid-grey and 1 above, 2 where there is far more red than green.

    The surer, the further from mid-grey.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, 3, H, W)``."""
        level = image.mean(1)
        red = 4 * (image[:, 0] - image[:, 1]) - 4
        return self.gain * torch.stack([-level, level, red], 1)


@pytest.fixture
def model() -> Predictor:
    return Predictor(Brightness(), SegmentationTask(CLASSES), {"name": "brightness"})


def texture(seed: int, height: int, width: int, cells: int = 6) -> np.ndarray:
    """Smooth blotches of colour, ``(H, W, 3)`` uint8: no two seeds look alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(5, 250, (cells, cells, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Five scenes: small and large, PNG and JPEG."""
    folder = tmp_path / "archive"
    (folder / "more").mkdir(parents=True)
    for seed, (name, size) in enumerate(
        {
            "a.png": (64, 64),
            "b.jpg": (64, 48),
            "large.png": (128, 192),
            "more/c.png": (64, 64),
            "more/wide.png": (64, 150),
        }.items()
    ):
        Image.fromarray(texture(seed, *size)).save(folder / name)
    return folder


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """All files of a folder by name."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
