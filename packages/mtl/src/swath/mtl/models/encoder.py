"""What all tasks of RSCoTr share after the backbone: channel mapper and deformable encoder.

The encoder's weights are shared, but detection calls it with the finest level first, segmentation
and multi-level classification with the coarsest first, so that its offsets for "level 0" mean
stride 8 to one task and stride 64 to the other. Trained weights depend on it; see
`DeformableEncoder.fine_first` and `DeformableEncoder.coarse_first`.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.mtl.models.layers import (
    MSDeformAttention,
    Shape,
    cell_centres,
    feed_forward,
    sine_positions,
)

FINE_FIRST_TEMPERATURE = 20.0
COARSE_FIRST_TEMPERATURE = 10000.0


class ChannelMapper(nn.Module):
    """Bring the last stages of a backbone to one width, and add a coarser level.

    The added level is a strided convolution of the last stage itself, not of its mapped form.

    Args:
        in_channels: Of the stages, finest first.
        out_channels: C.
        groups: Of the group norms.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, groups: int = 32) -> None:
        super().__init__()

        def mapping(channels: int, **kernel: int) -> nn.Sequential:
            conv = nn.Conv2d(channels, out_channels, bias=False, **kernel)  # type: ignore[arg-type]
            nn.init.xavier_uniform_(conv.weight)
            return nn.Sequential(conv, nn.GroupNorm(groups, out_channels))

        self.maps = nn.ModuleList(mapping(c, kernel_size=1) for c in in_channels)
        self.extra = mapping(in_channels[-1], kernel_size=3, stride=2, padding=1)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """One map ``(B, C, H, W)`` of each stage, and one of half the last one's resolution."""
        mapped = [layer(stage) for layer, stage in zip(self.maps, stages, strict=True)]
        return [*mapped, self.extra(stages[-1])]


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each followed by a norm."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = MSDeformAttention(dim, heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = feed_forward(dim, hidden)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        reference: Tensor,
        shapes: list[Shape],
        padding: Tensor | None,
    ) -> Tensor:
        """Tokens ``(B, S, C)`` that have seen one another; the position goes to queries only."""
        attended = self.self_attn(tokens + position, tokens, reference, shapes, padding)
        tokens = self.norm1(tokens + attended)
        out: Tensor = self.norm2(tokens + self.ffn(tokens))
        return out


class Tokens(NamedTuple):
    """What the encoder takes.

    Attributes:
        values: ``(B, S, C)``, the pixels of all levels, row by row, level after level.
        position: ``(B or 1, S, C)``, added to queries.
        reference: ``(B, S, L, 2)``, where each token is in units of every level, x and y.
        shapes: Height and width of each level.
        padding: bool ``(B, S)``, True outside of the image; None: nowhere.
    """

    values: Tensor
    position: Tensor
    reference: Tensor
    shapes: list[Shape]
    padding: Tensor | None


class Memory(NamedTuple):
    """What the encoder makes of a pyramid, finest level first.

    Attributes:
        tokens: ``(B, S, C)``, the levels one after the other.
        shapes: Height and width of each level.
        padding: bool ``(B, S)``, True outside of the image.
        valid_ratios: ``(B, L, 2)``, share of each level's width and height that the image fills.
    """

    tokens: Tensor
    shapes: list[Shape]
    padding: Tensor
    valid_ratios: Tensor


class DeformableEncoder(nn.Module):
    """Deformable self-attention among the tokens of all levels.

    Args:
        dim: Channels C.
        depth: Layers.
        heads: Attention heads.
        levels: Levels L.
        points: Points read of each level by a head of a query.
        hidden: Width of the feed-forward networks.

    Source:
        RSCoTr dossier 1.2; Zhu et al. 2021 (Deformable DETR), encoder.
    """

    def __init__(
        self,
        dim: int = 256,
        depth: int = 6,
        heads: int = 8,
        levels: int = 4,
        points: int = 4,
        hidden: int = 2048,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads, levels, points, hidden) for _ in range(depth)
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """Run all layers: ``(B, S, C)``."""
        values, *rest = tokens
        for layer in self.layers:
            values = layer(values, *rest)
        return values

    def fine_first(
        self, pyramid: Sequence[Tensor], padding: Sequence[Tensor], level_embed: Tensor
    ) -> Memory:
        """The call of detection: finest level first, aware of each image's own size.

        Args:
            pyramid: Maps ``(B, C, H, W)``, finest first.
            padding: For each of them bool ``(B, H, W)``.
            level_embed: ``(L, C)``.
        """
        tokens = fine_first_tokens(pyramid, padding, level_embed)
        assert tokens.padding is not None
        return Memory(self(tokens), tokens.shapes, tokens.padding, valid_ratios(padding))

    def coarse_first(self, pyramid: Sequence[Tensor], level_encoding: Tensor) -> list[Tensor]:
        """The call of segmentation and classification: coarsest level first, without padding.

        Args:
            pyramid: Maps ``(B, C, H, W)``, finest first.
            level_encoding: ``(L, C)``, coarsest first.

        Returns:
            Maps of the same shapes, coarsest first.
        """
        tokens = coarse_first_tokens(pyramid, level_encoding)
        parts = self(tokens).split([h * w for h, w in tokens.shapes], dim=1)
        return [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(parts, tokens.shapes, strict=True)
        ]


def fine_first_tokens(
    pyramid: Sequence[Tensor], padding: Sequence[Tensor], level_embed: Tensor
) -> Tokens:
    """Tokens for detection; see `DeformableEncoder.fine_first`."""
    shapes, values = _flattened(pyramid)
    position = _positions(padding, level_embed, FINE_FIRST_TEMPERATURE)
    ratios = valid_ratios(padding)
    # a centre in units of its image's valid part, then in units of each padded level
    centres = torch.cat(
        [c / ratios[:, i, None] for i, c in enumerate(cell_centres(shapes, values.device))], 1
    )
    outside = torch.cat([p.flatten(1) for p in padding], dim=1)
    reference = centres[:, :, None] * ratios[:, None]
    return Tokens(values, position.to(values.dtype), reference, shapes, outside)


def coarse_first_tokens(pyramid: Sequence[Tensor], level_encoding: Tensor) -> Tokens:
    """Tokens for segmentation; see `DeformableEncoder.coarse_first`."""
    shapes, values = _flattened(pyramid[::-1])
    nowhere = [torch.zeros(1, *s, dtype=torch.bool, device=values.device) for s in shapes]
    position = _positions(nowhere, level_encoding, COARSE_FIRST_TEMPERATURE)
    centres = torch.cat(cell_centres(shapes, values.device))
    reference = centres[None, :, None].expand(len(values), -1, len(shapes), -1)
    return Tokens(values, position.to(values.dtype), reference, shapes, None)


def valid_ratios(padding: Sequence[Tensor]) -> Tensor:
    """Share of each level's width and height that isn't padding, ``(B, L, 2)``."""
    ratios = []
    for mask in padding:
        valid = (~mask).float()
        ratios.append(torch.stack((valid[:, 0].mean(1), valid[:, :, 0].mean(1)), -1))
    return torch.stack(ratios, dim=1)


def _flattened(pyramid: Sequence[Tensor]) -> tuple[list[Shape], Tensor]:
    """Shapes of the levels, and all their pixels ``(B, S, C)``."""
    shapes = [(level.shape[2], level.shape[3]) for level in pyramid]
    return shapes, torch.cat([level.flatten(2).transpose(1, 2) for level in pyramid], dim=1)


def _positions(padding: Sequence[Tensor], levels: Tensor, temperature: float) -> Tensor:
    """Sine codes of all places, each with its level's embedding, ``(B, S, C)``."""
    codes = [
        sine_positions(mask, levels.shape[1] // 2, temperature).flatten(1, 2) + levels[i]
        for i, mask in enumerate(padding)
    ]
    return torch.cat(codes, dim=1)


class Features:
    """What a head gets to work with: features of a batch, computed when first asked for.

    Args:
        stages: Maps of the backbone's stages, finest first.
        sizes: Height and width of each image within the batch; the rest of it is padding.
        batch_size: Height and width of the batch in pixels.
        neck: Maps stages to the pyramid.
        encoder: The shared encoder.

    Attributes:
        stages: ``stages``.
        sizes: ``sizes``.
        batch_size: ``batch_size``.
        encoder: ``encoder``.
    """

    def __init__(
        self,
        stages: Sequence[Tensor],
        sizes: Sequence[Shape],
        batch_size: Shape,
        neck: ChannelMapper,
        encoder: DeformableEncoder,
    ) -> None:
        self.stages, self.sizes, self.batch_size = list(stages), list(sizes), batch_size
        self.encoder = encoder
        self._neck = neck

    @cached_property
    def pyramid(self) -> list[Tensor]:
        """Maps ``(B, C, H, W)`` of the channel mapper, strides 8, 16, 32, 64."""
        return self._neck(self.stages[-len(self._neck.maps) :])  # type: ignore[no-any-return]

    @cached_property
    def padding(self) -> list[Tensor]:
        """For each map of the pyramid bool ``(B, H, W)``, True outside of the image."""
        device = self.stages[0].device
        height, width = self.batch_size
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        masks = [(rows[:, None] >= h) | (columns >= w) for h, w in self.sizes]
        whole = torch.stack(masks).float()[None]
        return [F.interpolate(whole, x.shape[-2:])[0].bool() for x in self.pyramid]

    def rows(self, start: int, stop: int) -> "Features":
        """The same of some consecutive images of the batch, with the pyramid if it is there."""
        part = Features(
            [stage[start:stop] for stage in self.stages],
            self.sizes[start:stop],
            self.batch_size,
            self._neck,
            self.encoder,
        )
        if "pyramid" in self.__dict__:
            part.__dict__["pyramid"] = [level[start:stop] for level in self.pyramid]
        return part
