"""How the papers run their models over a test image, whatever it costs in accuracy.

For scenes of any size use the tiler, which keeps their scale and leaves no seams; what is here
reproduces published evaluations.

Official code: the evaluation branches of https://github.com/yecy749/GSNet, `gs_net/GSNet.py`; the
same in CAT-Seg and RSKT-Seg.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from swath.ovseg.clip import resized

Score = Callable[[Tensor, tuple[int, int]], Tensor]
"""Logits ``(B, T, 96, 96)`` of images ``(B, 3, H, W)`` on a grid."""

GRID = (24, 24)


@dataclass(frozen=True)
class PublishedProtocol:
    """One of the two published ways of evaluation.

    Without windows the image, padded with zeros to a multiple of ``pad_to``, is squeezed to the
    model's square and the map is stretched over the image, padding included: it is shifted unless
    the sides are such multiples. With windows the image is squeezed to ``canvas`` squared, scored
    in four windows of ``window`` px and once as a whole, and the two results are averaged.

    Args:
        slide: CAT-Seg and GSNet slide, RSKT-Seg doesn't.
        shortest_edge: The image's shorter side before all this, px; None leaves it.
        longest_edge: Limit of the longer side, px.
        canvas: Side of the squeezed image, px.
        window: Side of a window, px.
        stride: Distance between windows, px.
        pad_to: 32 px; SED doesn't pad, 1.
    """

    slide: bool = False
    shortest_edge: int | None = 640
    longest_edge: int = 2560
    canvas: int = 640
    window: int = 384
    stride: int = 256
    pad_to: int = 32

    def __call__(self, score: Score, image: Tensor) -> Tensor:
        """Probabilities ``(T, H, W)`` in [0, 1] of one image ``(3, H, W)``, normalised."""
        height, width = image.shape[-2:]
        return self.scored(score, self._shrunk(image[None]), (height, width))

    def _shrunk(self, image: Tensor) -> Tensor:
        if self.shortest_edge is None:
            return image
        height, width = image.shape[-2:]
        scale = self.shortest_edge / min(height, width)
        scale = min(scale, self.longest_edge / max(height, width))
        size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        return F.interpolate(image, size, mode="bilinear", antialias=True)

    def scored(self, score: Score, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities ``(T, *size)`` of an image ``(1, 3, h, w)`` that has been resized."""
        if self.slide:
            return resized(self._slid(score, image), size)[0]
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % self.pad_to, 0, -height % self.pad_to))
        probabilities = score(padded, GRID).sigmoid()[..., :height, :width]  # officially so
        return resized(probabilities, size)[0]

    def _slid(self, score: Score, image: Tensor) -> Tensor:
        canvas = resized(image, (self.canvas, self.canvas))
        starts = range(0, self.canvas - self.window + 1, self.stride)
        corners = [(top, left) for top in starts for left in starts]
        windows = [canvas[..., y : y + self.window, x : x + self.window] for y, x in corners]
        views = torch.cat([*windows, resized(image, (self.window, self.window))])
        probabilities = resized(score(views, GRID), (self.window, self.window)).sigmoid()
        total = probabilities.new_zeros(1, probabilities.shape[1], self.canvas, self.canvas)
        count = total.new_zeros(self.canvas, self.canvas)
        for (y, x), part in zip(corners, probabilities[:-1], strict=True):
            rows, columns = slice(y, y + self.window), slice(x, x + self.window)
            total[0, :, rows, columns] += part
            count[rows, columns] += 1
        whole = resized(probabilities[-1:], (self.canvas, self.canvas))
        return (total / count + whole) / 2
