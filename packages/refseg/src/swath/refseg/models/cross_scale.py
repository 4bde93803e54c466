"""Cross-scale interaction: one small grid on which all stages see each other.

Paper: RMSIN, Liu et al. 2024, arXiv:2312.12470, section 3.2. Official code:
https://github.com/Lsan2401/RMSIN, reused by https://github.com/1e12Leon/RemoteSAM. Parameter names
are those of their checkpoints. The module is tied to the grid it was trained on, since one of its
layers mixes tokens by number; whatever the image's size, the maps are pooled to that grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KEY_DIM, VALUE_DIM, NUM_HEADS = 32, 64, 8


def attention_tokens(grid: int) -> int:
    """Tokens of `CrossScaleAttention`: the grid, and its reductions by two and by three."""
    return grid**2 + ((grid - 1) // 2 + 1) ** 2 + ((grid - 1) // 3 + 1) ** 2


class LinearNorm(nn.Module):
    """Linear layer without bias, then batch norm over all tokens.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.c = nn.Linear(in_channels, out_channels, bias=False)
        self.bn = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens ``(B, N, in_channels)``."""
        x = self.c(x)
        x = self.bn(x.flatten(0, 1)).view_as(x)
        return x


class CrossScaleAttention(nn.Module):
    """Attention over tokens of three scales, beside a convolution of the values.

    Twice the official code reinterprets memory where a transposition is meant; checkpoints depend
    on it, so both are kept, and marked.

    Args:
        width: Channels C.
        grid: Side g of the finest scale.

    Source:
        Dossier 1.4.
    """

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        inner = NUM_HEADS * VALUE_DIM
        self.qkv = LinearNorm(width, NUM_HEADS * (2 * KEY_DIM + VALUE_DIM))
        self.parallel_conv = nn.Sequential(
            nn.Hardswish(), nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        )
        self.to_out = nn.Linear(inner, width)
        self.proj = nn.Linear(attention_tokens(grid), grid**2)

    def forward(self, x: Tensor) -> Tensor:
        """Turn tokens of all scales ``(B, N, C)`` into those of the finest, ``(B, g * g, C)``."""
        finest = self.grid**2
        qkv = self.qkv(x).unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)  # (B, heads, N, 128)
        q, k, v = qkv.split((KEY_DIM, KEY_DIM, VALUE_DIM), dim=-1)
        # (heads, tokens, channels) read as (heads * channels, row, column)
        local = v[:, :, :finest].reshape(len(x), -1, self.grid, self.grid)
        local = self.parallel_conv(local).flatten(2)  # (B, 512, g * g)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        # (tokens, heads, channels) read as (heads * channels, tokens)
        attended = self.proj(attended.reshape(len(x), NUM_HEADS * VALUE_DIM, -1))
        x = self.to_out((local + attended).transpose(1, 2))
        return x


class CrossScaleBlock(nn.Module):
    """Attention among a map and two coarser versions of itself.

    Args:
        width: Channels C.
        grid: Side g of the map.
    """

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.DWConv1 = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width), nn.BatchNorm2d(width)
        )
        self.DWConv2 = nn.Sequential(
            nn.Conv2d(width, width, 5, stride=3, padding=2, groups=width), nn.BatchNorm2d(width)
        )
        self.attention = CrossScaleAttention(width, grid)
        self.bn4 = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, C, g, g)``."""
        x = self.bn1(x)
        scales = (x, self.DWConv1(x), self.DWConv2(x))
        tokens = torch.cat([scale.flatten(2) for scale in scales], dim=2).transpose(1, 2)
        x = self.attention(tokens).transpose(1, 2).reshape(x.shape)
        x = self.conv(F.hardswish(self.bn4(x)))
        return x


class FeedForward(nn.Module):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolution.

    Args:
        width: Channels C.
        hidden: Channels in between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, hidden, 1)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=width)
        self.conv3 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, C, H, W)``."""
        x = self.bn2(self.conv1(self.bn1(x)))
        x = self.conv3(F.relu6(self.conv2(x)))
        return x


class IntraScaleFeedForward(nn.Module):
    """A feed-forward network for the channels of each stage by themselves.

    Args:
        widths: Channels of each stage.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        for i, width in enumerate(widths, start=1):
            self.add_module(f"ff{i}", Residual(FeedForward(width, 2 * width)))

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, sum(widths), H, W)``."""
        parts = x.split(self.widths, dim=1)
        return torch.cat(
            [layer(part) for layer, part in zip(self.children(), parts, strict=True)], dim=1
        )


class Residual(nn.Module):
    """``x + m(x)``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.m = module

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x``."""
        x = x + self.m(x)
        return x


class InteractionLayer(nn.Module):
    """Two rounds of attention across scales, each followed by a feed-forward network.

    Args:
        widths: Channels of each stage, already reduced.
        grid: Side g of the map.
    """

    def __init__(self, widths: Sequence[int], grid: int) -> None:
        super().__init__()
        width = sum(widths)
        self.csa1 = Residual(CrossScaleBlock(width, grid))
        self.intra_ff = Residual(IntraScaleFeedForward(widths))
        self.csa2 = Residual(CrossScaleBlock(width, grid))
        self.ff = Residual(FeedForward(width, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, C, g, g)``."""
        x = self.ff(self.csa2(self.intra_ff(self.csa1(x))))
        return x


class ScaleAwareGate(nn.Module):
    """A stage's own map, gated and shifted by what all stages have agreed on.

    Args:
        channels: Of the stage.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local_embedding = nn.Conv2d(channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.global_embedding = nn.Conv2d(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.global_act = nn.Conv2d(channels, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, local: Tensor, common: Tensor) -> Tensor:
        """Combine the stage's ``(B, C, H, W)`` with ``(B, C, g, g)``."""
        gate = _resized_to(F.hardsigmoid(self.bn3(self.global_act(common))), local)
        shift = _resized_to(self.bn2(self.global_embedding(common)), local)
        local = self.bn1(self.local_embedding(local)) * gate + shift
        return local


class CrossScaleInteraction(nn.Module):
    """All stages pooled to one grid, related to each other there, and each gated by the result.

    Args:
        channels: Of each stage.
        grid: Side g of the grid; 28 in RemoteSAM (a stride of 32 at 896 px), 15 in RMSIN.
        num_layers: `InteractionLayer`s; 1 in both.

    Source:
        Dossier 1.4. Officially the grid is that of the last stage, so that only square images of
        one size pass; here maps of any size are pooled to it, which at that size is the same.
    """

    def __init__(self, channels: Sequence[int], grid: int = 28, num_layers: int = 1) -> None:
        super().__init__()
        self.channels, self.grid = tuple(channels), grid
        total, width = sum(channels), sum(channels) // 4
        self.down_channel = nn.Conv2d(total, width, 1)
        widths = [c // 4 for c in channels]
        self.block = nn.Sequential(*(InteractionLayer(widths, grid) for _ in range(num_layers)))
        self.bn = nn.BatchNorm2d(width)
        self.up_channel = nn.Conv2d(width, total, 1)
        self.fusion = nn.ModuleList(ScaleAwareGate(c) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Transform the stages' maps ``(B, C_i, H_i, W_i)``, keeping their shapes."""
        x = self.up_channel(self.bn(self.block(self.down_channel(self.pooled(maps)))))
        parts = x.split(self.channels, dim=1)
        return [
            gate(local, common)
            for gate, local, common in zip(self.fusion, maps, parts, strict=True)
        ]

    def pooled(self, maps: Sequence[Tensor]) -> Tensor:
        """All maps averaged to the grid, ``(B, sum of channels, g, g)``."""
        return torch.cat([F.adaptive_avg_pool2d(x, self.grid) for x in maps], dim=1)


def _resized_to(x: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(x, size=other.shape[-2:], mode="bilinear", align_corners=False)
