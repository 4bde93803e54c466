"""What the open-vocabulary models share: aggregation of cost volumes and guided upsampling.

Paper: CAT-Seg, Cho et al. 2024, arXiv:2303.11797, sections 3.3 and 3.4.
Official code: https://github.com/cvlab-kaist/CAT-Seg, `cat_seg/modeling/transformer/model.py`.
Parameter names are those of its checkpoints.

Maps of T classes are ``(B, T, H, W, C)`` here. Guidance is the same for every class (or for every
pixel); what linear layers and convolutions make of it is computed once and added, which gives what
the official code computes for each class by concatenation.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.backbones.swin import shifted_window_mask
from swath.core.errors import ConfigError

AttentionType = Literal["linear", "full"]

CELLS_AT_ONCE = 16 * 24 * 24
"""Cells (classes times grid cells) that are aggregated and decoded at once in evaluation: more
drop out of a processor's caches."""


class SwinAttention(nn.Module):
    """The projections of a window's attention: q and k see features and guidance, v features.

    Args:
        dim: Channels C.
        guidance_dim: Channels G of the guidance.
    """

    def __init__(self, dim: int, guidance_dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(dim + guidance_dim, dim)
        self.k = nn.Linear(dim + guidance_dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)


class SwinBlock(nn.Module):
    """A Swin block whose queries and keys are guided by appearance; without position bias.

    Args:
        dim: Channels C.
        guidance_dim: Channels G.
        heads: Heads.
        window: Side of a window; a grid with no side longer than that is cut to squares of its
            shorter side and not shifted.
        shift: By how much windows are shifted, in cells.
    """

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = SwinAttention(dim, guidance_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Transform ``(B, T, H, W, C)``, guided by ``(B, H, W, G)``."""
        qkv = guided_qkv(self.norm1(x), guidance[:, None], self.attn.q, self.attn.k, self.attn.v)
        x = x + self.attn.proj(self._attend(qkv.flatten(0, 1)).view_as(x))
        x = x + self.mlp(self.norm2(x))
        return x

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attention within windows: ``(B, H, W, 3 C) -> (B, H, W, C)``."""
        height, width = qkv.shape[1:3]
        window, shift = self.window, self.shift
        if min(height, width) <= window:
            window, shift = min(height, width), 0
        below, right = -height % window, -width % window
        mask = None
        if shift or below or right:
            mask = shifted_window_mask(
                height, width, window, qkv.device, shift=shift, padding_apart=True
            ).to(qkv.dtype)
            mask = mask.repeat_interleave(self.heads, 0)[None]  # 4-d masks have a fused kernel
            qkv = F.pad(qkv, (0, 0, 0, right, 0, below)).roll((-shift, -shift), (1, 2))
        cells = qkv.unflatten(2, (-1, window)).unflatten(1, (-1, window))
        cells = cells.unflatten(-1, (3, self.heads, -1))  # (B, rows, w, columns, w, 3, heads, d)
        rows, columns = cells.shape[1], cells.shape[3]
        q, k, v = cells.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x.unflatten(2, (window, window)).unflatten(1, (rows, columns, self.heads))
        merged: Tensor = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        return merged if mask is None else merged.roll((shift, shift), (1, 2))[:, :height, :width]


class SpatialAggregation(nn.Module):
    """Spatial cost aggregation: two Swin blocks for each class by itself.

    Args:
        dim: Channels C.
        guidance_dim: Channels G of the appearance guidance.
        heads: Heads.
        window: Side of a window, cells; the second block's are shifted by half of it.

    Source:
        CAT-Seg, equation 3.
    """

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.block_1 = SwinBlock(dim, guidance_dim, heads, window, 0)
        self.block_2 = SwinBlock(dim, guidance_dim, heads, window, window // 2)
        self.guidance_norm = nn.LayerNorm(guidance_dim)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Transform ``(B, T, H, W, C)``, guided by ``(B, H, W, G)``."""
        guidance = self.guidance_norm(guidance)
        x = self.block_2(self.block_1(x, guidance), guidance)
        return x


class ClassAttention(nn.Module):
    """The projections of the attention between classes.

    Args:
        dim: Channels C.
        guidance_dim: Channels G of the text guidance.
    """

    def __init__(self, dim: int, guidance_dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(dim + guidance_dim, dim)
        self.k = nn.Linear(dim + guidance_dim, dim)
        self.v = nn.Linear(dim, dim)


class ClassAggregation(nn.Module):
    """Class cost aggregation: attention between the classes of each (pooled) cell.

    Officially the classes are padded to ``pad_len`` with one learned vector. Padded classes are
    equal in every cell and their outputs are dropped: here they are one key that counts as often.

    Args:
        dim: Channels C.
        guidance_dim: Channels G of the text guidance.
        heads: Heads.
        pooling: Cells ``(rows, columns)`` that are averaged before, in training.
        eval_pooling: The same in evaluation; default ``pooling``. A remainder that doesn't fill a
            pool is left out, as officially.
        attention_type: ``"linear"`` or ``"full"``.
        pad_len: Number of classes that are padded to, 0 for none.

    Source:
        CAT-Seg, equation 4; linear attention of Katharopoulos et al. 2020, arXiv:2006.16236.
    """

    def __init__(
        self,
        dim: int,
        guidance_dim: int,
        heads: int,
        pooling: Sequence[int],
        eval_pooling: Sequence[int] | None = None,
        attention_type: AttentionType = "linear",
        pad_len: int = 256,
    ) -> None:
        super().__init__()
        self.heads, self.pad_len, self.attention_type = heads, pad_len, attention_type
        self.pooling, self.eval_pooling = tuple(pooling), tuple(eval_pooling or pooling)
        self.attention = ClassAttention(dim, guidance_dim)
        self.MLP = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        if pad_len > 0:
            self.padding_tokens = nn.Parameter(torch.zeros(1, 1, dim))
            self.padding_guidance = nn.Parameter(torch.zeros(1, 1, guidance_dim))

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Transform ``(B, T, H, W, C)``, guided by ``(B or 1, T, G)``."""
        pooling = self.pooling if self.training else self.eval_pooling
        pooled = average_pool(x, pooling)
        rows = max(1, CELLS_AT_ONCE // (pooled.shape[1] * pooled.shape[3]))
        pooled = in_groups(lambda part: self._mix(part, guidance), pooled, 2, rows)
        return x + upsampled(pooled, (x.shape[2], x.shape[3]))

    def _mix(self, x: Tensor, guidance: Tensor) -> Tensor:
        guidance = guidance[:, :, None, None]  # (B, T, 1, 1, G)
        qkv = guided_qkv(self.norm1(x), guidance, *self._projections())
        qkv = qkv.unflatten(-1, (3, self.heads, -1)).permute(4, 0, 2, 3, 5, 1, 6)
        attend = self._attend_linearly if self.attention_type == "linear" else self._attend_fully
        q, k, v = qkv
        mixed = attend(q, k, v, x.shape[1])  # (B, H, W, heads, T, d)
        x = x + mixed.permute(0, 4, 1, 2, 3, 5).flatten(4)
        x = x + self.MLP(self.norm2(x))
        return x

    def _projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.attention.q, self.attention.k, self.attention.v

    def _padding(self) -> tuple[Tensor, Tensor]:
        """Key and value ``(heads, 1, d)`` of a padded class."""
        tokens = self.norm1(self.padding_tokens)
        qkv = guided_qkv(tokens, self.padding_guidance, *self._projections())
        _, key, value = qkv[0, 0].unflatten(0, (3, self.heads, 1, -1))
        return key, value

    def _attend_linearly(self, q: Tensor, k: Tensor, v: Tensor, classes: int) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        moment, total = k.transpose(-1, -2) @ v, k.sum(-2, keepdim=True)
        if classes < self.pad_len:
            key, value = self._padding()
            key = (self.pad_len - classes) * (F.elu(key) + 1)
            moment, total = moment + key.transpose(-1, -2) @ value, total + key
        return (q @ moment) / (q @ total.transpose(-1, -2) + 1e-6)

    def _attend_fully(self, q: Tensor, k: Tensor, v: Tensor, classes: int) -> Tensor:
        bias, cells = None, q.shape[:3]
        if classes < self.pad_len:
            key, value = (x.expand(*k.shape[:4], 1, -1) for x in self._padding())
            k, v = torch.cat([k, key], -2), torch.cat([v, value], -2)
            bias = q.new_zeros(1, classes + 1)
            bias[:, -1] = math.log(self.pad_len - classes)
        q, k, v = (x.flatten(0, 2) for x in (q, k, v))
        mixed: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).unflatten(0, cells)
        return mixed


class AggregatorLayer(nn.Module):
    """Spatial, then class cost aggregation.

    Args:
        dim: Channels C.
        appearance_dim: Channels of the appearance guidance.
        text_dim: Channels of the text guidance.
        heads: Heads of both.
        window: See `SpatialAggregation`.
        pooling: See `ClassAggregation`, as the rest.
        eval_pooling: See there.
        attention_type: See there.
        pad_len: See there.
    """

    def __init__(
        self,
        dim: int,
        appearance_dim: int,
        text_dim: int,
        heads: int = 4,
        window: int = 12,
        pooling: Sequence[int] = (2, 2),
        eval_pooling: Sequence[int] | None = None,
        attention_type: AttentionType = "linear",
        pad_len: int = 256,
    ) -> None:
        super().__init__()
        self.swin_block = SpatialAggregation(dim, appearance_dim, heads, window)
        self.attention = ClassAggregation(
            dim, text_dim, heads, pooling, eval_pooling, attention_type, pad_len
        )

    def forward(self, x: Tensor, appearance: Tensor, text: Tensor) -> Tensor:
        """Transform ``(B, T, H, W, C)``.

        Args:
            x: The embedded cost volume.
            appearance: Guidance ``(B, H, W, G)``.
            text: Guidance ``(B or 1, T, G')``.
        """
        classes = max(1, CELLS_AT_ONCE // (x.shape[2] * x.shape[3]))
        x = in_groups(lambda part: self.swin_block(part, appearance), x, 1, classes)
        x = self.attention(x, text)
        return x


class GuidedUpsample(nn.Module):
    """Twice the size, with guidance that all classes share: one stage of the decoder.

    Args:
        in_channels: Of the map.
        up_channels: After the transposed convolution.
        guidance_channels: Of all guidance maps together; 0 for none.
        out_channels: Of the result; a multiple of 16.

    Source:
        CAT-Seg's `Up`, GSNet's `FusionUP`, RSKT-Seg's `RSKT_Upsample`: they differ in the guidance.
    """

    def __init__(
        self, in_channels: int, up_channels: int, guidance_channels: int, out_channels: int
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, up_channels, 2, stride=2)
        convolutions = nn.Sequential(
            nn.Conv2d(up_channels + guidance_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(out_channels // 16, out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(out_channels // 16, out_channels),
            nn.ReLU(),
        )
        self.conv = nn.Sequential(OrderedDict(double_conv=convolutions))

    def forward(self, x: Tensor, guidance: Sequence[Tensor], own: Tensor | None = None) -> Tensor:
        """Double a map ``(B * T, C, h, w)``; the classes of an image follow each other.

        Args:
            x: The map.
            guidance: Maps ``(B, G_i, 2 h, 2 w)`` that all classes share.
            own: A map ``(B * T, G, 2 h, 2 w)`` that each class has for itself, behind those.

        Returns:
            ``(B * T, C', 2 h, 2 w)``.
        """
        x = self.up(x)
        convolutions: Any = self.conv[0]
        begin, end = x.shape[1], x.shape[1] + sum(g.shape[1] for g in guidance)
        before, between, behind = convolutions[0].weight.tensor_split((begin, end), dim=1)
        if own is not None:
            x, before = torch.cat([x, own], 1), torch.cat([before, behind], 1)
        x = F.conv2d(x, before, padding=1)
        if guidance:
            shared = F.conv2d(torch.cat(list(guidance), 1), between, padding=1)
            x = (x.unflatten(0, (len(shared), -1)) + shared[:, None]).flatten(0, 1)
        x = convolutions[1:](x)
        return x


def guidance_projection(in_channels: int, out_channels: int) -> nn.Sequential:
    """3 x 3 convolution and ReLU."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU())


def text_projection(in_features: int, out_features: int) -> nn.Sequential:
    """Linear layer and ReLU."""
    return nn.Sequential(nn.Linear(in_features, out_features), nn.ReLU())


def mean_over_prompts(text: Tensor) -> Tensor:
    """Average texts ``(..., P, E)`` as they are and bring the mean to unit length."""
    text = text.mean(-2)
    unit: Tensor = text / text.norm(dim=-1, keepdim=True)
    return unit


def guided_qkv(
    x: Tensor, guidance: Tensor, query: nn.Linear, key: nn.Linear, value: nn.Linear
) -> Tensor:
    """Queries and keys of ``cat(x, guidance)`` and values of ``x``, in one.

    Args:
        x: ``(..., C)``.
        guidance: ``(..., G)``, broadcast against ``x``; it is projected only once.
        query: ``C + G -> C'``.
        key: The like.
        value: ``C -> C'``.

    Returns:
        ``(..., 3 C')``.
    """
    own = x.shape[-1]
    weight = torch.cat([query.weight[:, :own], key.weight[:, :own], value.weight])
    bias = torch.cat([query.bias, key.bias, value.bias])
    shared = F.linear(guidance, torch.cat([query.weight[:, own:], key.weight[:, own:]]))
    qkv: Tensor = F.linear(x, weight, bias)
    return qkv.add_(F.pad(shared, (0, value.out_features)))


def as_images(x: Tensor) -> Tensor:
    """``(B, T, H, W, C) -> (B * T, C, H, W)``, channels last in memory."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def as_cells(maps: Tensor, like: Tensor) -> Tensor:
    """``(B * T, C, H, W) -> (B, T, H, W, C)``, with the B and T of ``like``."""
    cells: Tensor = maps.permute(0, 2, 3, 1).unflatten(0, like.shape[:2])
    return cells


def average_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average cells ``(B, T, H, W, C)`` in blocks; a remainder is left out."""
    rows, columns = size
    if rows == columns == 1:
        return x
    return as_cells(F.avg_pool2d(as_images(x), (rows, columns)), x)


def upsampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring ``(B, T, h, w, C)`` to a size, bilinear, corners aligned."""
    if x.shape[2:4] == size:
        return x
    maps = F.interpolate(as_images(x), size, mode="bilinear", align_corners=True)
    return as_cells(maps, x)


def in_groups(
    function: Callable[..., Tensor], x: Tensor, dim: int, size: int, *others: Tensor
) -> Tensor:
    """Apply a function to slices of at most ``size``; to all at once where gradients flow.

    Args:
        function: Of a slice of ``x`` and the like slices of the others.
        x: What is cut.
        dim: Along which dimension.
        size: Length of a slice.
        *others: Cut alike.
    """
    if x.shape[dim] <= size or torch.is_grad_enabled():
        return function(x, *others)
    slices = zip(*(tensor.split(size, dim) for tensor in (x, *others)), strict=True)
    return torch.cat([function(*parts) for parts in slices], dim)


def decode(
    x: Tensor, stages: Sequence[tuple[GuidedUpsample, Sequence[Tensor]]], head: nn.Conv2d
) -> Tensor:
    """Logits ``(B, T, 4 h, 4 w)`` of aggregated maps ``(B, T, h, w, C)``; classes don't interact.

    Args:
        x: The maps.
        stages: Upsampling stages and the guidance of each.
        head: Convolution to one channel.
    """

    def run(part: Tensor) -> Tensor:
        maps = as_images(part)
        for stage, guidance in stages:
            maps = stage(maps, guidance)
        logits: Tensor = head(maps)[:, 0].unflatten(0, part.shape[:2])
        return logits

    return in_groups(run, x, 1, max(1, CELLS_AT_ONCE // (x.shape[2] * x.shape[3])))


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse an option that isn't one of those allowed.

    Raises:
        ConfigError: If so.
    """
    if value not in allowed:
        raise ConfigError(f"{name}='{value}' is unknown; use one of {', '.join(allowed)}")
