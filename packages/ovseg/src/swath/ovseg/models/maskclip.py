"""MaskCLIP: CLIP's dense features against texts, and nothing that is trained.

Paper: Extract Free Dense Labels from CLIP, Zhou et al. 2022 (MaskCLIP), arXiv:2112.01071, section
3.2, without key smoothing and prompt denoising. It is what CAT-Seg, GSNet and RSKT-Seg begin with,
so that the gain over it is what their heads are worth.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from swath.kernels import cost_volume
from swath.ovseg.clip import CLIP, set_finetuning
from swath.ovseg.models.base import OpenVocabularySegmenter


class MaskCLIP(OpenVocabularySegmenter):
    """Cosines of patches and texts, by CLIP's temperature.

    Args:
        clip: Arguments of `CLIP`.
    """

    def __init__(self, clip: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.clip = CLIP(**(clip or {}))
        set_finetuning(self.clip, "frozen")

    @property
    def templates(self) -> int:
        """One: the vectors of several are averaged."""
        return 1

    def score(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """Logits ``(B, T, h, w)``; see `OpenVocabularySegmenter.score`."""
        scale: Tensor = self.clip.logit_scale.exp()
        return scale * self.cost_maps(image, text, grid)["clip"]

    def cost_maps(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """See `OpenVocabularySegmenter.cost_maps`."""
        features, _ = self.clip.dense(image, grid)
        return {"clip": cost_volume([features], text, (0,)).mean(1)}
