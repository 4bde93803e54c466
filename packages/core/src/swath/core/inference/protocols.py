"""How papers run a segmentation model over a test image: whole, resized, or by a sliding window.

For scenes of any size use the tiler (`swath.core.inference.tiler`), which has bounded memory and no
seams; what is here reproduces published evaluations.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.errors import ConfigError

Mode = Literal["whole", "resize", "slide"]


@dataclass(frozen=True)
class EvaluationMode:
    """One way of getting class probabilities for a whole image from a model.

    Args:
        mode: ``"whole"`` runs the model on the image as it is; ``"resize"`` on the image squeezed
            to ``size`` x ``size`` (bilinear, align_corners=True, both ways; the aspect is lost, as
            in the paper); ``"slide"`` on windows of ``size`` px at steps of ``step`` px.
        size: Side of the resized image or of the window, px.
        step: Distance between windows, px.
        flip: Averages the probabilities with those of the horizontally mirrored image.
        repeat_clamped_windows: ``"slide"`` only. False: each window counts once and overlapping
            probabilities are averaged. True: as officially, windows start at
            ``min(k * step, side - size)`` for ``k = 0 .. side // step``, so that the last one,
            clamped to the border, counts up to three times, and the sums are not divided; what a
            step larger than ``size`` leaves out scores 0.
        sum_logits: ``"slide"`` only: adds logits in place of probabilities, as the official
            validation during training does (with step ``int(size * 2 / 3)``).

    Raises:
        ConfigError: If a size or step is missing or not positive.

    Source:
        S5, `RS_Finetune/Semantic_Segmentation/evaluate.py` and `util/test_utils.py`.
    """

    mode: Mode = "whole"
    size: int = 512
    step: int = 256
    flip: bool = False
    repeat_clamped_windows: bool = False
    sum_logits: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "resize", "slide"):
            raise ConfigError(f"unknown evaluation mode '{self.mode}'; use whole, resize or slide")
        if self.size < 1 or self.step < 1:
            raise ConfigError(f"size={self.size} and step={self.step} must be positive")

    def __call__(self, model: nn.Module, image: Tensor) -> Tensor:
        """Class scores of a batch of images of one size.

        Args:
            model: Maps ``(B, C, h, w)`` to logits ``(B, K, h, w)``.
            image: float ``(B, C, H, W)``, normalised.

        Returns:
            float32 ``(B, K, H, W)``: probabilities that sum to 1 over the classes; with
            ``repeat_clamped_windows`` or ``sum_logits`` unnormalised scores of the same argmax.
        """
        if self.mode == "slide":
            return self._slide(model, image)
        if self.mode == "resize":
            small = _resize(image, (self.size, self.size))
            return _resize(self._scores(model, small), (image.shape[-2], image.shape[-1]))
        return self._scores(model, image)

    def _scores(self, model: nn.Module, image: Tensor) -> Tensor:
        scores = self._one(model, image)
        return (scores + self._one(model, image.flip(-1)).flip(-1)) / 2 if self.flip else scores

    def _one(self, model: nn.Module, image: Tensor) -> Tensor:
        logits: Tensor = model(image).float()
        return logits if self.sum_logits and self.mode == "slide" else logits.softmax(1)

    def _slide(self, model: nn.Module, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        total: Tensor | None = None
        count = image.new_zeros(height, width, dtype=torch.float32)
        for top in self.starts(height):
            for left in self.starts(width):
                rows, columns = slice(top, top + self.size), slice(left, left + self.size)
                scores = self._scores(model, image[..., rows, columns])
                if total is None:
                    total = scores.new_zeros(*scores.shape[:2], height, width)
                total[..., rows, columns] += scores
                count[rows, columns] += 1
        if total is None:  # starts() is never empty
            raise AssertionError
        return total if self.repeat_clamped_windows or self.sum_logits else total / count

    def starts(self, side: int) -> list[int]:
        """First pixels of the windows along a side of ``side`` px, ascending."""
        last = max(side - self.size, 0)
        starts = [min(k * self.step, last) for k in range(side // self.step + 1)]
        if self.repeat_clamped_windows:
            return starts
        return sorted({*starts, last})  # a step may leave a gap at the border


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bilinear", align_corners=True)
