"""What CAT-Seg, GSNet and RSKT-Seg are built around: CLIP, its guidance, and images of any size."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from swath.ovseg.clip import CLIP, set_finetuning

V = TypeVar("V")

CELL = 16
"""Pixels of the image in a cell of the cost volume, each way: 384 px are 24 cells in every model."""

MULTIPLE = 2 * CELL
"""What sides are padded to: a grid of even sides loses nothing to pooling by 2."""


class OpenVocabularySegmenter(nn.Module):
    """Scores pixels against texts.

    Subclasses have an ``aggregator`` and say in `forward` what goes into it.

    Args:
        clip: Arguments of `CLIP`.
        guidance_dims: Channels of the two maps that guide the decoder.
        taps: Blocks of CLIP that these come from.
        finetune: What of CLIP trains; see `set_finetuning`.

    Attributes:
        stride: Tiles of a scene begin at multiples of this.
    """

    stride = MULTIPLE
    aggregator: nn.Module

    def __init__(
        self,
        clip: Mapping[str, Any],
        guidance_dims: Sequence[int],
        taps: Sequence[int],
        finetune: str,
    ) -> None:
        super().__init__()
        self.clip = CLIP(**clip)
        self.taps = tuple(taps)
        self.upsample1 = nn.ConvTranspose2d(self.clip.vision_width, guidance_dims[0], 2, stride=2)
        self.upsample2 = nn.ConvTranspose2d(self.clip.vision_width, guidance_dims[1], 4, stride=4)
        set_finetuning(self.clip, finetune)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unit vectors ``(T, P, E)`` of T classes in P templates, token ids ``(T, P, L)``."""
        text = self.clip.encode_text(tokens.flatten(0, 1), normalize=True)
        return text.unflatten(0, tokens.shape[:2])

    def forward(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """Logits ``(B, T, 4 h, 4 w)``.

        Args:
            image: float ``(B, 3, H, W)``, normalised; each tower gets it resized to what the grid
                asks for.
            text: Unit vectors ``(T, P, E)``.
            grid: Cells ``(h, w)`` of the cost volume, both even.
        """
        raise NotImplementedError

    def segment(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits ``(B, T, H, W)`` of images of any size at their own scale.

        Zeros (the mean) are added below and on the right where needed, and cut off again.

        Args:
            image: float ``(B, 3, H, W)``, normalised.
            text: Unit vectors ``(T, P, E)``.
        """
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        size = image.shape[-2:]
        logits = self(image, text, (size[0] // CELL, size[1] // CELL))
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def clip_features(self, image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        """CLIP's features ``(B, E, h, w)``, and with them the guidance of finer grids."""
        features, taps = self.clip.dense(image, grid, self.taps)
        first, second = taps
        return features, [features, self.upsample1(first), self.upsample2(second)]

    def set_checkpointing(self, on: bool = True) -> None:
        """Recompute the activations of CLIP's image tower in the backward pass, to save memory."""
        self.clip.checkpointing = on


def renamed(state: Mapping[str, V], names: Mapping[str, str]) -> dict[str, V]:
    """Replace the prefixes of keys; the first that fits, and others are left as they are."""
    result = {}
    for key, value in state.items():
        for old, new in names.items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
                break
        result[key] = value
    return result


CLIP_KEYS = {
    "sem_seg_head.predictor.clip_model.": "clip.",
    "sem_seg_head.predictor.transformer.": "aggregator.",
}
"""Official prefixes that all three models have, and ours."""

SPECIALIST_KEYS = {
    "dino_model.": "specialist.vit.",
    "dino_decod_proj": "specialist.decod_proj",
    "dino_down_sample.": "specialist.down_sample.",
}
"""Those of the specialist."""


def remap(state: Mapping[str, V], names: Mapping[str, str]) -> dict[str, V]:
    """Official keys to ours; masks of shifted windows are left out: here they follow the grid."""
    kept = {k: v for k, v in state.items() if not k.endswith(".attn_mask")}
    return renamed(kept, names)


def unmap(state: Mapping[str, V], names: Mapping[str, str]) -> dict[str, V]:
    """Our keys to official ones."""
    return renamed(state, {ours: official for official, ours in names.items()})
