"""Swin Transformer as dense prediction uses it: any image size, one normalised map per stage.

Paper: Liu et al. 2021, arXiv:2103.14030. Official code: https://github.com/microsoft/Swin-Transformer
(MIT) and its variant for segmentation, from which this differs in no figure: maps are zero-padded
right and below to whole windows after the first norm, padded tokens are ordinary keys, and windows
shift whatever the map's size.
Parameter names are those of both, so that their checkpoints load strictly; see `load_swin`.

Tokens are kept as maps ``(B, H, W, C)`` throughout.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swath.core.backbones.vit import DropPath, Mlp, init_linear
from swath.core.checkpoint.official import load_strict

MASKED = -100.0
"""Added to the scores of tokens that a shifted window brings together from afar."""


class PatchEmbed(nn.Module):
    """Zero-pad right and below to whole patches, project each to one token, normalise.

    Args:
        in_channels: Bands.
        width: Channels C of a token.
        patch_size: Side of a patch, px.
    """

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image ``(B, in_channels, H, W)`` to ``(B, ceil(H / P), ceil(W / P), C)``."""
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.patch_size, 0, -height % self.patch_size))
        x: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return x


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias per relative position.

    Args:
        width: Channels C.
        num_heads: Heads; divides C.
        window_size: Side M of a window, tokens.
        qkv_bias: Whether the packed projection has a bias.

    Source:
        Paper section 3.2, equation 4.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, num_heads: int, window_size: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        self.register_buffer("relative_position_index", relative_positions(window_size))
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window.

        Args:
            x: ``(B, windows, M * M, C)``.
            mask: ``(windows, M * M, M * M)`` added to the scores; None adds nothing.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        # (heads, M * M, M * M)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is None:  # every window is a sample
            q, k, v = qkv.flatten(1, 2)
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
            x = x.unflatten(0, qkv.shape[1:3])
        else:  # windows differ in their mask: they are heads, which a batch shares
            q, k, v = qkv.flatten(2, 3)
            bias = (bias + mask[:, None]).flatten(0, 1)
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
            x = x.unflatten(1, qkv.shape[2:4])
        x = self.proj(x.transpose(2, 3).flatten(3))  # (B, windows, heads, M * M, C / heads) before
        return x


class SwinBlock(nn.Module):
    """Pre-norm block whose attention sees windows, shifted by half a window if ``shifted``.

    Args:
        width: Channels C.
        num_heads: Heads.
        window_size: Side M of a window, tokens.
        shifted: Whether windows start half a window further right and below.
        mlp_ratio: Hidden width of the MLP in multiples of C.
        qkv_bias: See `WindowAttention`.
        drop_path: Probability of dropping either branch.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        window_size: int,
        shifted: bool = False,
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, num_heads, window_size, qkv_bias)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Transform a map.

        Args:
            x: ``(B, H, W, C)``.
            mask: `shifted_window_mask` of the padded map; used only if the block is shifted.
        """
        x = x + self.drop_path(self.windows(self.norm1(x), mask))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x

    def windows(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pad ``(B, H, W, C)`` to whole windows, shift, attend in each, and undo both."""
        height, width, size = *x.shape[1:3], self.window_size
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        x = x.unflatten(2, (columns, size)).unflatten(1, (rows, size)).transpose(2, 3)
        x = self.attn(x.flatten(3, 4).flatten(1, 2), mask if self.shift else None)
        x = x.unflatten(2, (size, size)).unflatten(1, (rows, columns)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """Halve a map: concatenate the tokens of each 2 x 2 square, column by column, and project.

    Args:
        width: Channels C; the result has twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to ``(B, ceil(H / 2), ceil(W / 2), 2 C)``, zero-padded if odd."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, row, W / 2, column, C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        x = self.reduction(self.norm(x))
        return x


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one shifted, then a merging unless it is the last.

    Args:
        width: Channels C.
        depth: Blocks.
        num_heads: Heads of each block.
        window_size: Side M of a window, tokens.
        drop_paths: Stochastic depth of each block.
        downsample: Whether a `PatchMerging` follows.
        mlp_ratio: See `SwinBlock`.
        qkv_bias: See `SwinBlock`.
        checkpointing: Recompute each block in the backward pass to save memory.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        window_size: int,
        drop_paths: Sequence[float],
        downsample: bool = True,
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.window_size, self.checkpointing = window_size, checkpointing
        self.blocks = nn.ModuleList(
            SwinBlock(width, num_heads, window_size, i % 2 == 1, mlp_ratio, qkv_bias, drop_paths[i])
            for i in range(depth)
        )
        self.downsample = PatchMerging(width) if downsample else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform ``(B, H, W, C)``.

        Returns:
            The blocks' output, ``(B, H, W, C)``, and what the next stage takes: the merged map,
            or the same if no merging follows.
        """
        x = self.attend(x)
        return x, x if self.downsample is None else self.downsample(x)

    def attend(self, x: Tensor) -> Tensor:
        """The blocks alone: ``(B, H, W, C)`` to the same."""
        height, width = x.shape[1:3]
        mask = shifted_window_mask(height, width, self.window_size, x.device).to(x.dtype)
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x


class Swin(nn.Module):
    """Swin Transformer with one layer-normalised map per stage; any image size.

    Args:
        embed_dim: Channels of the first stage; each further one doubles them.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        window_size: Side of a window, tokens.
        mlp_ratio: See `SwinBlock`.
        in_channels: Bands.
        patch_size: Side of a patch, px.
        qkv_bias: See `SwinBlock`.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first.
        out_indices: Stages whose outputs become maps, finest first.
        checkpointing: See `SwinStage`.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map.
        pad_to: The patch size; maps of other sizes are padded inside.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4,
        in_channels: int = 3,
        patch_size: int = 4,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.2,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        widths = stage_widths(embed_dim, depths)
        self.out_indices = tuple(out_indices)
        self.channels = tuple(widths[i] for i in out_indices)
        self.strides = tuple(patch_size * 2**i for i in out_indices)
        self.pad_to = patch_size
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        self.layers = nn.ModuleList(
            SwinStage(
                widths[i],
                depths[i],
                num_heads[i],
                window_size,
                rates,
                downsample=i < len(depths) - 1,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                checkpointing=checkpointing,
            )
            for i, rates in enumerate(drop_path_rates(drop_path_rate, depths))
        )
        for i in out_indices:
            self.add_module(f"norm{i}", nn.LayerNorm(widths[i]))
        self.apply(init_linear)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps ``(B, C_i, h_i, w_i)``, finest first, of an image ``(B, in_channels, H, W)``."""
        x = self.patch_embed(image)
        maps = []
        for i, layer in enumerate(self.layers):
            output, x = layer(x)
            if i in self.out_indices:
                maps.append(self.get_submodule(f"norm{i}")(output).permute(0, 3, 1, 2).contiguous())
        return maps


Size = Literal["t", "s", "b", "l"]

SIZES: dict[str, dict[str, Any]] = {
    "t": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "s": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "b": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "l": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}
"""Arguments that the paper gives each size (section 3.3)."""


def swin(
    size: Size = "t", window_size: int = 7, in_channels: int = 3, checkpointing: bool = False
) -> Swin:
    """Swin-T, S, B or L as a pyramid of four maps.

    Args:
        size: ``"t"``, ``"s"``, ``"b"`` or ``"l"``.
        window_size: 7, or 12 for weights that were trained at 384 px.
        in_channels: Bands.
        checkpointing: See `SwinStage`.
    """
    return Swin(
        window_size=window_size,
        in_channels=in_channels,
        checkpointing=checkpointing,
        **SIZES[size],
    )


def load_swin(model: nn.Module, state: Mapping[str, Tensor], *, where: str = "checkpoint") -> None:
    """Load a `Swin` from its own weights or from an ImageNet classifier of the official layout.

    A classifier's head and final norm are dropped, and the norms of the maps, which it lacks, keep
    their initial values; its masks of one image size are dropped too.

    Args:
        model: A `Swin`.
        state: Either layout.
        where: What to call the checkpoint in an error.

    Raises:
        CheckpointError: If the rest doesn't fit to the last key.
    """
    kept = {
        key: value
        for key, value in state.items()
        if not key.startswith(("head.", "norm.")) and not key.endswith(".attn_mask")
    }
    has_norms = any(key.startswith("norm") for key in kept)
    load_strict(model, kept, where=where, may_miss=() if has_norms else ("norm",))


def stage_widths(embed_dim: int, depths: Sequence[int]) -> list[int]:
    """Channels of each stage: doubled from one to the next."""
    return [embed_dim * 2**i for i in range(len(depths))]


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth of every block by stage, rising linearly from 0 to ``last`` over all."""
    rates = iter(torch.linspace(0, last, sum(depths), device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


def relative_positions(window_size: int) -> Tensor:
    """Row of the bias table for every pair of tokens in a window: ``(M * M, M * M)``, int64."""
    steps = torch.arange(window_size)
    offset = steps[:, None] - steps + window_size - 1  # (M, M) in 0 .. 2 M - 2
    index = offset[:, None, :, None] * (2 * window_size - 1) + offset[None, :, None, :]
    return index.reshape(window_size**2, window_size**2)


def shifted_window_mask(
    height: int,
    width: int,
    window_size: int,
    device: torch.device | str | None = None,
    *,
    shift: int | None = None,
    padding_apart: bool = False,
) -> Tensor:
    """What keeps apart, in shifted windows, tokens that are no neighbours in the map.

    Args:
        height: Rows of the map, before padding to whole windows.
        width: Columns.
        window_size: Side M of a window.
        device: Where the mask is made.
        shift: By how much windows are shifted; default: half of their side.
        padding_apart: Whether padding is kept apart from the map; officially it is part of it.

    Returns:
        float32 ``(windows, M * M, M * M)``, 0 or `MASKED`.
    """
    shift = window_size // 2 if shift is None else shift
    rows, columns = (
        _regions(side, window_size, shift, padding_apart, device) for side in (height, width)
    )
    regions = 6 * rows[:, None, :, None] + columns[None, :, None, :]  # (rows, columns, M, M)
    regions = regions.flatten(0, 1).flatten(1)  # (windows, M * M)
    return MASKED * (regions[:, :, None] != regions[:, None, :])


def _regions(
    side: int,
    window_size: int,
    shift: int,
    padding_apart: bool,
    device: torch.device | str | None,
) -> Tensor:
    """Which part of the side the tokens of each shifted window come from: ``(windows, M)``."""
    padded = -(-side // window_size) * window_size
    position = torch.arange(padded, device=device)
    in_last_window = position >= padded - window_size
    wrapped_around = position >= padded - shift
    region = in_last_window.int() + wrapped_around.int()
    if padding_apart:
        region = region + 3 * (position >= side).roll(-shift).int()
    return region.view(-1, window_size)
