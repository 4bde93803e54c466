"""What the models are built around: CLIP, its guidance, and images of any size."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.errors import ConfigError
from swath.ovseg.clip import CLIP, set_finetuning
from swath.ovseg.layers import in_groups, mean_over_prompts

V = TypeVar("V")

TEXTS_AT_ONCE = 256
"""Sentences that the text tower encodes at once in evaluation."""


class OpenVocabularySegmenter(nn.Module):
    """Scores pixels against texts.

    Subclasses have a ``clip`` and an ``aggregator``, and say in `score` what goes into it.

    Attributes:
        cell: Side of a cell of the cost volume in pixels of the image.
        stride: What sides are padded to, and where tiles of a scene begin: two cells, since a grid
            of even sides loses nothing to pooling by 2.
    """

    cell = 16
    stride = 32
    clip: Any
    aggregator: Any

    @property
    def templates(self) -> int:
        """Templates P that a class is described by; one, in every published model."""
        return int(self.aggregator.prompt_channel)

    def forward(self, image: Tensor, text: Tensor) -> Tensor | list[Tensor]:
        """Logits ``(B, T, H, W)`` of images of any size, at their own scale.

        Zeros (the mean) are added below and on the right where needed, and cut off again.

        Args:
            image: float ``(B, 3, H, W)``, normalised.
            text: Unit vectors ``(T, P, E)``; or, int64, token ids ``(T, P, L)``.

        Returns:
            The logits; of a model that is also judged on the way there (SED), in training, a list,
            the final ones first.
        """
        if not text.is_floating_point():
            text = self.encode_text(text)
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.stride, 0, -height % self.stride))
        size = image.shape[-2:]
        scores = self.score(image, text, (size[0] // self.cell, size[1] // self.cell))

        def enlarged(logits: Tensor) -> Tensor:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            return logits[..., :height, :width]

        return enlarged(scores) if isinstance(scores, Tensor) else [enlarged(x) for x in scores]

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unit vectors ``(T, P, E)`` of T classes in P templates, token ids ``(T, P, L)``.

        If the model was made for one template, that of several is the mean of their vectors.

        Raises:
            ConfigError: If it was made for several, and these are others.
        """
        text = encode_prompts(self.clip, tokens)
        if self.templates == 1:
            text = mean_over_prompts(text)[:, None]
        elif self.templates != text.shape[1]:
            raise ConfigError(
                f"this {type(self).__name__} was made for {self.templates} templates, not for "
                f"{text.shape[1]}; give the task the ensemble it was trained with (SED: 'imagenet')"
            )
        return text

    def score(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor | list[Tensor]:
        """Logits ``(B, T, 4 h, 4 w)`` on a grid, of SED ``(B, T, 8 h, 8 w)``; see `forward`.

        Args:
            image: float ``(B, 3, H, W)``, normalised; each tower gets it resized to what the grid
                asks for.
            text: Unit vectors ``(T, P, E)``.
            grid: Cells ``(h, w)`` of the cost volume.
        """
        raise NotImplementedError

    def cost_maps(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """Cosines before aggregation, mean over templates, ``(B, T, h, w)`` by stream.

        Args:
            image: See `score`.
            text: See there.
            grid: See there.
        """
        raise NotImplementedError

    def set_checkpointing(self, on: bool = True) -> None:
        """Recompute the activations of CLIP's image tower in the backward pass, to save memory."""
        self.clip.set_checkpointing(on)


class ViTSegmenter(OpenVocabularySegmenter):
    """One whose CLIP is a ViT, two of whose blocks guide the decoder.

    Args:
        clip: Arguments of `CLIP`.
        guidance_dims: Channels of the two maps that guide the decoder.
        taps: Blocks of CLIP that these come from.
        finetune: What of CLIP trains; see `set_finetuning`.
        cell: Side of a cell of the cost volume in pixels of the image; 16 as published.
    """

    def __init__(
        self,
        clip: Mapping[str, Any],
        guidance_dims: Sequence[int],
        taps: Sequence[int],
        finetune: str,
        cell: int = 16,
    ) -> None:
        super().__init__()
        self.cell, self.stride = cell, 2 * cell
        self.clip = CLIP(**clip)
        self.taps = tuple(taps)
        self.upsample1 = nn.ConvTranspose2d(self.clip.vision_width, guidance_dims[0], 2, stride=2)
        self.upsample2 = nn.ConvTranspose2d(self.clip.vision_width, guidance_dims[1], 4, stride=4)
        set_finetuning(self.clip, finetune)

    def score(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `OpenVocabularySegmenter.score`."""
        raise NotImplementedError

    def clip_features(self, image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        """CLIP's features ``(B, E, h, w)``, and with them the guidance of finer grids."""
        features, taps = self.clip.dense(image, grid, self.taps)
        first, second = taps
        return features, [features, self.upsample1(first), self.upsample2(second)]


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
"""Official prefixes that all models have, and ours."""

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


def encode_prompts(clip: CLIP, tokens: Tensor) -> Tensor:
    """Unit vectors ``(T, P, E)`` by a CLIP, `TEXTS_AT_ONCE` at a time, of ids ``(T, P, L)``."""
    text = in_groups(
        lambda ids: clip.encode_text(ids, normalize=True), tokens.flatten(0, 1), 0, TEXTS_AT_ONCE
    )
    prompts: Tensor = text.unflatten(0, tokens.shape[:2])
    return prompts
