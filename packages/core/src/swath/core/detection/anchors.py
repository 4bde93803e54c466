"""Anchors: the boxes that a proposal network corrects."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class AnchorGenerator:
    """Horizontal boxes of a few shapes at every cell of every map of a pyramid.

    Args:
        strides: Pixels of the image for a cell of each map.
        ratios: Height over width.
        scale: Square root of an anchor's area in strides.

    Source:
        Ren et al. 2015, Faster R-CNN, section 3.1.1, in mmdetection's form: the centre of a cell's
        anchors is the cell's upper left corner.
    """

    def __init__(
        self,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        scale: float = 8.0,
    ) -> None:
        self.strides, self.ratios, self.scale = tuple(strides), tuple(ratios), scale

    @property
    def per_cell(self) -> int:
        """Anchors of a cell."""
        return len(self.ratios)

    def __call__(
        self, sizes: Sequence[tuple[int, int]], device: torch.device | str = "cpu"
    ) -> list[Tensor]:
        """Anchors of every map.

        Args:
            sizes: Height and width of each map in cells.
            device: Where to make them.

        Returns:
            For each map float32 ``(h * w * A, 4)``, x1, y1, x2, y2 in pixels of the image: cells
            row by row, in each cell the ratios in turn.
        """
        return [
            self._level(stride, height, width, device)
            for stride, (height, width) in zip(self.strides, sizes, strict=True)
        ]

    def _level(self, stride: int, height: int, width: int, device: torch.device | str) -> Tensor:
        side = stride * self.scale
        halves = [
            [side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2] for ratio in self.ratios
        ]
        half = torch.tensor(halves, device=device)  # (A, 2)
        y, x = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        centre = torch.stack((x, y), -1).reshape(-1, 1, 2) * float(stride)  # (h * w, 1, 2)
        return torch.cat((centre - half, centre + half), -1).reshape(-1, 4)


def inside_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which horizontal boxes ``(N, 4)`` lie wholly inside an image of (height, width): ``(N,)``."""
    height, width = size
    low, high = boxes[:, :2], boxes[:, 2:]
    return (low >= 0).all(1) & (high < high.new_tensor([width, height])).all(1)
