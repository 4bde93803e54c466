"""SED: CLIP's ConvNeXt, a decoder of three refined upsamplings, and classes rejected on the way.

Paper: SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation, Xie et al. 2024,
arXiv:2311.15537.
Official code: https://github.com/xb534/SED, `sed/sed_model.py` and
`sed/modeling/transformer/model.py`.

No tensors of the official code are recorded for it. Checked were: against the dossier (section 12)
the parameters, all and trained; against the official decoder, run once side by side with the same
random weights, the logits of all four scales, with gradients; against the paper and the official
code by reading, what trains, the four losses, and early rejection.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from swath.core.precision import in_float32
from swath.kernels import cost_volume
from swath.ovseg.clip import ConvNeXtCLIP, resized
from swath.ovseg.layers import (
    CELLS_AT_ONCE,
    ClassAggregation,
    GuidedUpsample,
    as_cells,
    as_images,
    check_choice,
    guidance_projection,
    in_groups,
)
from swath.ovseg.models.base import CLIP_KEYS, OpenVocabularySegmenter, remap, unmap
from swath.ovseg.models.catseg import TRUNCATED_LOGIT

V = TypeVar("V")


class RefinedUpsample(GuidedUpsample):
    """Mix neighbours and classes, then twice the size: one stage of the decoder.

    Args:
        in_channels: Of the maps.
        guidance_channels: Of CLIP's map, and of the cost map.
        out_channels: Of the result; a multiple of 16.
        heads: Heads of the attention between classes.
        pooling: See `ClassAggregation`.
        eval_pooling: See there.
        kernel_size: Side of the depthwise convolution, cells; odd.

    Source:
        SED, section 3.3: feature aggregation module and skip-layer fusion module.
    """

    def __init__(
        self,
        in_channels: int,
        guidance_channels: int,
        out_channels: int,
        heads: int,
        pooling: Sequence[int],
        eval_pooling: Sequence[int] | None,
        kernel_size: int,
    ) -> None:
        own = in_channels - guidance_channels
        super().__init__(in_channels, own, 2 * guidance_channels, out_channels)
        self.cnext = ConvNeXtBlock(in_channels, kernel_size=kernel_size, ls_init_value=1.0)
        self.attention = ClassAggregation(in_channels, 0, heads, pooling, eval_pooling, pad_len=0)

    def stage(self, x: Tensor, guidance: Tensor, costs: Tensor) -> Tensor:
        """Double maps.

        Args:
            x: ``(B, T, h, w, C)``.
            guidance: CLIP's map ``(B, G, 2 h, 2 w)``.
            costs: Cost maps ``(B, T, G, 2 h, 2 w)``.

        Returns:
            ``(B, T, 2 h, 2 w, C')``.
        """
        classes = max(1, CELLS_AT_ONCE // (4 * x.shape[2] * x.shape[3]))
        x = in_groups(lambda part: as_cells(self.cnext(as_images(part)), part), x, 1, classes)
        x = self.attention(x, x.new_zeros(1, x.shape[1], 0))

        def enlarged(part: Tensor, own: Tensor) -> Tensor:
            maps: Tensor = self(as_images(part), [guidance], own.flatten(0, 1))
            return as_cells(maps, part)

        return in_groups(enlarged, x, 1, classes, costs)


class GradualFusionDecoder(nn.Module):
    """From features and texts to logits, over three stages that each double the size.

    Args:
        decoder_dims: Channels after each stage.
        decoder_guidance_dims: Channels of CLIP's maps of strides 16, 8 and 4.
        decoder_guidance_proj_dims: What these and the cost maps are projected to.
        nheads: Heads of the attention between classes.
        hidden_dim: Channels of the embedded cost volume.
        pooling_size: See `ClassAggregation`.
        eval_pooling_size: See there.
        kernel_size: See `RefinedUpsample`.
        prompt_channel: Templates P.
        top_k: Category early rejection, in evaluation: before each stage only those classes are
            kept that are among the k highest anywhere; the others get the logit -100. None keeps
            all.

    Source:
        SED, sections 3.3 and 3.4.
    """

    def __init__(
        self,
        decoder_dims: Sequence[int] = (64, 32, 16),
        decoder_guidance_dims: Sequence[int] = (512, 256, 128),
        decoder_guidance_proj_dims: Sequence[int] = (32, 16, 8),
        nheads: int = 4,
        hidden_dim: int = 128,
        pooling_size: Sequence[int] = (2, 2),
        eval_pooling_size: Sequence[int] | None = None,
        kernel_size: int = 9,
        prompt_channel: int = 80,
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        self.prompt_channel, self.top_k = prompt_channel, top_k
        self.conv1 = nn.Conv2d(prompt_channel, hidden_dim, 7, padding=3)
        projected = tuple(decoder_guidance_proj_dims)
        self.decoder_guidance_projection = nn.ModuleList(
            guidance_projection(*dims)
            for dims in zip(decoder_guidance_dims, projected, strict=True)
        )
        self.decoder_corr_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(*dims, 2, stride=2), nn.ReLU())
            for dims in zip((prompt_channel, *projected[:-1]), projected, strict=True)
        )
        widths = (hidden_dim, *decoder_dims)
        self.decoder1, self.decoder2, self.decoder3 = (
            RefinedUpsample(
                widths[i],
                projected[i],
                widths[i + 1],
                nheads,
                pooling_size,
                eval_pooling_size,
                kernel_size,
            )
            for i in range(3)
        )
        self.head0, self.head1, self.head2, self.head = (
            nn.Conv2d(width, 1, 3, padding=1) for width in widths
        )

    def forward(
        self, features: Tensor, text: Tensor, guidance: Sequence[Tensor]
    ) -> Tensor | list[Tensor]:
        """Logits ``(B, T, 8 h, 8 w)``; in training also those before each stage, behind them.

        Args:
            features: ``(B, E, h, w)``.
            text: ``(B or 1, T, P, E)``.
            guidance: CLIP's maps of 2, 4 and 8 times the size.
        """
        x, costs = self._embedded(features, text)
        kept = torch.arange(text.shape[1], device=x.device)
        before = []
        stages = zip(
            (self.head0, self.head1, self.head2),
            self.decoder_guidance_projection,
            self.decoder_corr_guidance_projection,
            (self.decoder1, self.decoder2, self.decoder3),
            guidance,
            strict=True,
        )
        for head, project, enlarge, decoder, finer in stages:
            if self.training:
                before.append(logits_of(head, x.detach()))
            elif self.top_k is not None:
                found = logits_of(head, x).topk(min(self.top_k, x.shape[1]), 1).indices.unique()
                kept, x, costs = kept[found], x[:, found], costs[:, found]
            costs = enlarge(costs.flatten(0, 1)).unflatten(0, x.shape[:2])
            x = decoder.stage(x, project(finer), costs)
        logits = logits_of(self.head, x)
        if self.training:
            return [logits, *before]
        every = logits.new_full((len(x), text.shape[1], *logits.shape[2:]), TRUNCATED_LOGIT)
        return every.index_copy(1, kept, logits)

    @in_float32  # in bfloat16 two to three times as many pixels change their class
    def _embedded(self, features: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded cost volume ``(B, T, h, w, C)``, and itself ``(B, T, P, h, w)``."""
        volume = cost_volume([features], text, (0,), layout="images")
        batch = (len(features), text.shape[1])
        cells = self.conv1(volume).permute(0, 2, 3, 1).unflatten(0, batch)
        return cells, volume.unflatten(0, batch)


def logits_of(head: nn.Module, x: Tensor) -> Tensor:
    """Maps ``(B, T, H, W, C)`` to logits ``(B, T, H, W)``."""
    logits: Tensor = head(as_images(x))[:, 0].unflatten(0, x.shape[:2])
    return logits


class SED(OpenVocabularySegmenter):
    """SED.

    Args:
        clip: Arguments of `ConvNeXtCLIP`.
        aggregator: Arguments of `GradualFusionDecoder` other than the channels of the guidance.
        finetune: ``"full"`` trains CLIP's image tower, as published; ``"frozen"`` nothing of it.
            The text tower never trains.

    Raises:
        ConfigError: If there is no such mode.
    """

    cell = 32
    stride = 64

    def __init__(
        self,
        clip: Mapping[str, Any] | None = None,
        aggregator: Mapping[str, Any] | None = None,
        finetune: str = "full",
    ) -> None:
        super().__init__()
        check_choice("finetune", finetune, ("full", "frozen"))
        self.clip = ConvNeXtCLIP(**(clip or {})).requires_grad_(False)
        self.clip.visual.requires_grad_(finetune == "full")
        widths = [stage["num_chs"] for stage in self.clip.visual.trunk.feature_info]
        self.aggregator = GradualFusionDecoder(
            decoder_guidance_dims=widths[-2::-1], **(aggregator or {})
        )

    def score(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor | list[Tensor]:
        """See `OpenVocabularySegmenter.score`."""
        features, maps = self._features(image, grid)
        guidance = [x.detach() for x in maps[-2::-1]]  # officially so
        scores: Tensor | list[Tensor] = self.aggregator(features, text[None], guidance)
        return scores

    def _features(self, image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        image = resized(image, (self.cell * grid[0], self.cell * grid[1]))
        features, maps = self.clip.dense(image)
        return features, maps

    def cost_maps(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """See `OpenVocabularySegmenter.cost_maps`."""
        return {"clip": cost_volume([self._features(image, grid)[0]], text, (0,)).mean(1)}


CONVNEXT_SIZES: dict[str, dict[str, Any]] = {
    "b": {},
    "l": {
        "embed_dim": 768,
        "trunk": "convnext_large",
        "proj": "mlp",
        "text_width": 768,
        "text_heads": 12,
        "text_layers": 16,
    },
}
"""Arguments of `ConvNeXtCLIP`: open_clip's ``convnext_base_w_320`` and ``convnext_large_d_320``."""


def sed(
    size: Literal["b", "l"] = "b",
    finetune: str = "full",
    prompt_channel: int = 80,
    pooling_size: Sequence[int] = (2, 2),
    eval_pooling_size: Sequence[int] = (1, 1),
    top_k: int | None = None,
) -> SED:
    """SED as published: 180,761,741 parameters with ConvNeXt-B.

    Args:
        size: CLIP: ``"b"`` for ConvNeXt-B, ``"l"`` for ConvNeXt-L.
        finetune: See `SED`.
        prompt_channel: Templates per class; ImageNet's 80 as published.
        pooling_size: Of the attention between classes in training.
        eval_pooling_size: In evaluation.
        top_k: See `GradualFusionDecoder`.
    """
    return SED(
        CONVNEXT_SIZES[size],
        {
            "prompt_channel": prompt_channel,
            "pooling_size": pooling_size,
            "eval_pooling_size": eval_pooling_size,
            "top_k": top_k,
        },
        finetune=finetune,
    )


_BLOCK = {".dwconv.": ".conv_dw.", ".pwconv1.": ".mlp.fc1.", ".pwconv2.": ".mlp.fc2."}
"""Official names within the decoder's ConvNeXt blocks, and timm's."""


def _within_blocks(state: Mapping[str, V], names: Mapping[str, str]) -> dict[str, V]:
    result = {}
    for key, value in state.items():
        if ".cnext." in key:
            for old, new in names.items():
                key = key.replace(old, new)
        result[key] = value
    return result


def remap_official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of an official SED checkpoint to those of our model."""
    return _within_blocks(remap(state, CLIP_KEYS), _BLOCK)


def official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse: our keys in the official layout."""
    return _within_blocks(unmap(state, CLIP_KEYS), {new: old for old, new in _BLOCK.items()})
