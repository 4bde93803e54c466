"""CAT-Seg: cost aggregation for open-vocabulary segmentation, the common baseline.

Paper: CAT-Seg, Cho et al. 2024, arXiv:2303.11797.
Official code: https://github.com/cvlab-kaist/CAT-Seg, `cat_seg/modeling/transformer/model.py`,
`cat_seg/cat_seg_model.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.precision import in_float32
from swath.kernels import cost_volume
from swath.ovseg.clip import Size, guiding_blocks, sized
from swath.ovseg.layers import (
    AggregatorLayer,
    AttentionType,
    GuidedUpsample,
    decode,
    guidance_projection,
    mean_over_prompts,
    text_projection,
)
from swath.ovseg.models.base import CLIP_KEYS, ViTSegmenter, remap, unmap

V = TypeVar("V")

TRUNCATED_LOGIT = -100.0


class Aggregator(nn.Module):
    """From features and texts to logits: cost volume, aggregation, guided upsampling.

    Args:
        text_guidance_dim: Channels E of the texts.
        text_guidance_proj_dim: What they are projected to.
        appearance_guidance_dim: Channels E of the features.
        appearance_guidance_proj_dim: What they are projected to.
        decoder_dims: Channels after each upsampling.
        decoder_guidance_dims: Channels of the finer guidance.
        decoder_guidance_proj_dims: What it is projected to.
        num_layers: Layers of aggregation.
        nheads: Heads.
        hidden_dim: Channels of the embedded cost volume.
        pooling_size: See `ClassAggregation`.
        eval_pooling_size: See there.
        window_size: See `SpatialAggregation`.
        attention_type: See `ClassAggregation`.
        prompt_channel: Templates P.
        pad_len: See `ClassAggregation`. Of more classes than that, those with the highest cost
            anywhere are aggregated and the others get the logit -100.
    """

    def __init__(
        self,
        text_guidance_dim: int = 512,
        text_guidance_proj_dim: int = 128,
        appearance_guidance_dim: int = 512,
        appearance_guidance_proj_dim: int = 128,
        decoder_dims: Sequence[int] = (64, 32),
        decoder_guidance_dims: Sequence[int] = (256, 128),
        decoder_guidance_proj_dims: Sequence[int] = (32, 16),
        num_layers: int = 2,
        nheads: int = 4,
        hidden_dim: int = 128,
        pooling_size: Sequence[int] = (2, 2),
        eval_pooling_size: Sequence[int] | None = None,
        window_size: int = 12,
        attention_type: AttentionType = "linear",
        prompt_channel: int = 1,
        pad_len: int = 256,
    ) -> None:
        super().__init__()
        self.pad_len, self.prompt_channel = pad_len, prompt_channel
        self.conv1 = nn.Conv2d(prompt_channel, hidden_dim, 7, padding=3)
        self.guidance_projection = guidance_projection(
            appearance_guidance_dim, appearance_guidance_proj_dim
        )
        self.text_guidance_projection = text_projection(text_guidance_dim, text_guidance_proj_dim)
        self.layers = nn.ModuleList(
            AggregatorLayer(
                hidden_dim,
                appearance_guidance_proj_dim,
                text_guidance_proj_dim,
                nheads,
                window_size,
                pooling_size,
                eval_pooling_size,
                attention_type,
                pad_len,
            )
            for _ in range(num_layers)
        )
        self.decoder_guidance_projection = nn.ModuleList(
            guidance_projection(*dims)
            for dims in zip(decoder_guidance_dims, decoder_guidance_proj_dims, strict=True)
        )
        first, second = decoder_dims
        guided1, guided2 = decoder_guidance_proj_dims
        self.decoder1 = GuidedUpsample(hidden_dim, hidden_dim - guided1, guided1, first)
        self.decoder2 = GuidedUpsample(first, first - guided2, guided2, second)
        self.head = nn.Conv2d(second, 1, 3, padding=1)

    def forward(self, features: Tensor, text: Tensor, guidance: Sequence[Tensor]) -> Tensor:
        """Logits ``(B, T, 4 h, 4 w)``.

        Args:
            features: ``(B, E, h, w)``.
            text: ``(B or 1, T, P, E)``.
            guidance: Appearance ``(B, E, h, w)``, and maps of twice and four times the size.
        """
        if 0 < self.pad_len < text.shape[1]:
            return self._truncated(features, text, guidance)
        x = self._embedded(features, text)
        appearance = self.guidance_projection(guidance[0]).permute(0, 2, 3, 1)
        text_guidance = self.text_guidance_projection(mean_over_prompts(text))
        for layer in self.layers:
            x = layer(x, appearance, text_guidance)
        finer = zip(self.decoder_guidance_projection, guidance[1:], strict=True)
        first, second = (projection(g) for projection, g in finer)
        return decode(x, [(self.decoder1, [first]), (self.decoder2, [second])], self.head)

    @in_float32  # in bfloat16 two to three times as many pixels change their class
    def _embedded(self, features: Tensor, text: Tensor) -> Tensor:
        """The embedded cost volume ``(B, T, h, w, C)``."""
        x = self.conv1(cost_volume([features], text, (0,), layout="images"))
        cells: Tensor = x.permute(0, 2, 3, 1).unflatten(0, (len(features), -1))
        return cells

    def _truncated(self, features: Tensor, text: Tensor, guidance: Sequence[Tensor]) -> Tensor:
        """The logits of the `pad_len` classes with the highest cost, -100 for the others."""
        highest = cost_volume([features], text, (0,)).amax((1, 3, 4))  # (B, T)
        kept = highest.topk(self.pad_len, sorted=False).indices
        unit = F.normalize(text, dim=-1).expand(len(features), -1, -1, -1)
        chosen = unit.gather(1, kept[..., None, None].expand(-1, -1, *unit.shape[2:]))
        logits = self(features, chosen, guidance)
        every = logits.new_full((*highest.shape, *logits.shape[2:]), TRUNCATED_LOGIT)
        scattered: Tensor = every.scatter(1, kept[..., None, None].expand_as(logits), logits)
        return scattered


class CATSeg(ViTSegmenter):
    """CAT-Seg.

    Args:
        clip: Arguments of `CLIP`.
        aggregator: Arguments of `Aggregator` other than the channels of features and guidance.
        guidance_dims: Channels of the guidance of the decoder.
        taps: Blocks of CLIP that it comes from.
        finetune: See `swath.ovseg.clip.set_finetuning`.
        cell: See `ViTSegmenter`.
    """

    def __init__(
        self,
        clip: Mapping[str, Any] | None = None,
        aggregator: Mapping[str, Any] | None = None,
        guidance_dims: Sequence[int] = (256, 128),
        taps: Sequence[int] = (3, 7),
        finetune: str = "attention",
        cell: int = 16,
    ) -> None:
        super().__init__(clip or {}, guidance_dims, taps, finetune, cell)
        self.aggregator = Aggregator(
            text_guidance_dim=self.clip.embed_dim,
            appearance_guidance_dim=self.clip.embed_dim,
            decoder_guidance_dims=guidance_dims,
            **(aggregator or {}),
        )

    def score(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `OpenVocabularySegmenter.score`."""
        features, guidance = self.clip_features(image, grid)
        logits: Tensor = self.aggregator(features, text[None], guidance)
        return logits

    def cost_maps(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """See `OpenVocabularySegmenter.cost_maps`."""
        features, _ = self.clip_features(image, grid)
        return {"clip": cost_volume([features], text, (0,)).mean(1)}


def catseg(
    size: Size = "b",
    num_layers: int = 2,
    finetune: str = "attention",
    prompt_channel: int = 1,
    attention_type: AttentionType = "linear",
    pooling_size: Sequence[int] = (2, 2),
    eval_pooling_size: Sequence[int] = (1, 1),
) -> CATSeg:
    """CAT-Seg as published: 154,289,378 parameters with ViT-B/16.

    Args:
        size: CLIP: ``"b"`` for ViT-B/16, ``"l"`` for ViT-L/14 at 336 px, or another of
            `swath.ovseg.clip.CLIP_SIZES`, or arguments of `CLIP`.
        num_layers: Layers of aggregation.
        finetune: What of CLIP trains.
        prompt_channel: Templates per class.
        attention_type: Between classes.
        pooling_size: Of the class aggregation in training.
        eval_pooling_size: In evaluation.
    """
    return CATSeg(
        sized(size),
        {
            "num_layers": num_layers,
            "prompt_channel": prompt_channel,
            "attention_type": attention_type,
            "pooling_size": pooling_size,
            "eval_pooling_size": eval_pooling_size,
        },
        taps=guiding_blocks(size),
        finetune=finetune,
    )


def remap_official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of an official CAT-Seg checkpoint to those of our model."""
    return remap(state, CLIP_KEYS)


def official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse: our keys in the official layout."""
    return unmap(state, CLIP_KEYS)
