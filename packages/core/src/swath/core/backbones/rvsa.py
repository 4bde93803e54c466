"""ViT with rotated varied-size window attention (RVSA): windows that learn where to look.

Papers: Advancing Plain Vision Transformer Toward Remote Sensing Foundation Model, Wang et al. 2022,
arXiv:2208.03987; the variant of MTP, Wang et al. 2024, arXiv:2403.13430.
Official code: https://github.com/MiliLab/S5,
`RS_Finetune/Semantic_Segmentation/model/backbone/vit_win_rvsa_v3_wsz7_mtp.py`. Parameter names are
those of its checkpoints.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swath.core.backbones.vit import DropPath, Mlp, init_linear, neck_of, patch_grid
from swath.core.checkpoint.official import resize_position_embedding

WINDOW = 7
"""Side of a window in tokens; fixed, since the tables of every checkpoint are made for it."""


class RelativeAttention(nn.Module):
    """Global attention with decomposed relative positions.

    Args:
        width: Channels C.
        num_heads: Heads.
        qkv_bias: Whether the packed projection has a bias.
        grid: Rows and columns of tokens that the tables are made for.
        official_quirks: See `RVSA`.

    Source:
        MViTv2, Li et al. 2022, arXiv:2112.01526, equation 4; the bias comes from the query after
        its scaling, as officially.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        qkv_bias: bool,
        grid: tuple[int, int],
        official_quirks: bool,
    ) -> None:
        super().__init__()
        self.num_heads, self.official_quirks = num_heads, official_quirks
        head = width // num_heads
        rows, columns = (grid[0], grid[0]) if official_quirks else grid
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.full_attn_rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, head))
        self.full_attn_rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, head))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Attend within tokens ``(B, height * width, C)``, row-major."""
        q, k, v = rearrange(
            self.qkv(x), "b n (three h c) -> three b h n c", three=3, h=self.num_heads
        )
        bias = relative_bias(
            q * q.shape[-1] ** -0.5,
            self._table(self.full_attn_rel_pos_h, height),
            self._table(self.full_attn_rel_pos_w, width),
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.proj(rearrange(x, "b h n c -> b n (h c)"))
        return x

    def _table(self, table: Tensor, side: int) -> Tensor:
        """The rows of a table for ``side`` tokens, ``(2 * side - 1, c)``."""
        length = 2 * side - 1
        if len(table) == length:
            return table
        if self.official_quirks and len(table) > length:
            return table[:length]
        resized = F.interpolate(table.T[None], size=length, mode="linear", align_corners=False)
        return resized[0].T


class WindowAttention(nn.Module):
    """Attention within windows whose keys and values are sampled from a learned rotated rectangle.

    For each window and head, the pooled tokens predict an offset, a scale per axis and an angle of
    the rectangle.

    Args:
        width: Channels C.
        num_heads: Heads.
        qkv_bias: Whether the packed projection has a bias.
        use_rel_pos_bias: Adds the two learned tables of relative positions.
        official_quirks: See `RVSA`.

    Source:
        arXiv:2208.03987, section III-C; dossier a.2.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        width: int,
        num_heads: int,
        qkv_bias: bool,
        use_rel_pos_bias: bool,
        official_quirks: bool,
    ) -> None:
        super().__init__()
        self.num_heads, self.official_quirks = num_heads, official_quirks
        self.use_rel_pos_bias = use_rel_pos_bias
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.sampling_offsets = _window_head(width, 2 * num_heads)
        self.sampling_scales = _window_head(width, 2 * num_heads)
        self.sampling_angles = _window_head(width, num_heads)
        if use_rel_pos_bias:
            side = 2 * WINDOW - 1
            self.rel_pos_h = nn.Parameter(torch.zeros(side, width // num_heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(side, width // num_heads))
            self.relative_position_bias_table = nn.Parameter(torch.zeros(side * side, num_heads))
            self.register_buffer("relative_position_index", _window_index())

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Attend within tokens ``(B, height * width, C)``, row-major."""
        pads = _window_padding(height, width)
        left, right, top, bottom = pads
        grid = (height + top + bottom, width + left + right)
        rows, columns = grid[0] // WINDOW, grid[1] // WINDOW

        tokens = rearrange(x, "b (h w) c -> b c h w", h=height)
        q, k, v = F.pad(
            rearrange(
                self.qkv(x),
                "b (y x) (three h c) -> three (b h) c y x",
                three=3,
                h=self.num_heads,
                y=height,
            ),
            pads,
        )
        where = self.sampling_grid(F.pad(tokens, pads), height, width)
        k, v = (
            F.grid_sample(t, where, mode="bilinear", padding_mode="zeros", align_corners=True)
            for t in (k, v)
        )
        q, k, v = (
            rearrange(
                t,
                "(b h) c (r i) (s j) -> (b r s) h (i j) c",
                h=self.num_heads,
                i=WINDOW,
                j=WINDOW,
            )
            for t in (q, k, v)
        )
        bias = self._bias(q) if self.use_rel_pos_bias else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = rearrange(
            out, "(b r s) h (i j) c -> b (r i) (s j) (h c)", r=rows, s=columns, i=WINDOW
        )
        out = out[:, top : top + height, left : left + width].flatten(1, 2)
        result: Tensor = self.proj(out)
        return result

    def sampling_grid(self, padded: Tensor, height: int, width: int) -> Tensor:
        """Where each token's key and value are taken from.

        Args:
            padded: Normed tokens ``(B, C, H', W')``, padded to whole windows.
            height: Rows before padding.
            width: Columns before padding.

        Returns:
            ``(B * heads, H', W', 2)``, x and y in -1..1 over the padded extent.
        """
        extent_y, extent_x = padded.shape[-2:]
        offset, scale = (
            rearrange(head(padded), "b (h xy) r s -> (b h) r s 1 1 xy", xy=2)
            for head in (self.sampling_offsets, self.sampling_scales)
        )
        angle = rearrange(self.sampling_angles(padded), "b h r s -> (b h) r s 1 1")

        per_x, per_y = max(width // WINDOW, 1), max(height // WINDOW, 1)
        if self.official_quirks:
            per_x, per_y = per_y, per_x
        offset = offset / offset.new_tensor([per_x, per_y])

        centre_y, centre_x = (_centres(n, padded) for n in (extent_y, extent_x))
        inside_y, inside_x = (_inside(n, padded) for n in (extent_y, extent_x))
        x = inside_x[None, :] * (1 + scale[..., 0])  # (B h, r, s, i, j)
        y = inside_y[:, None] * (1 + scale[..., 1])
        cos, sin = angle.cos(), angle.sin()
        x, y = x * cos - y * sin, y * cos + x * sin
        x = x + centre_x[:, None, None] + offset[..., 0]
        y = y + centre_y[:, None, None, None] + offset[..., 1]
        return rearrange(torch.stack([x, y]), "xy b r s i j -> b (r i) (s j) xy")

    def _bias(self, q: Tensor) -> Tensor:
        """Both tables of relative positions for queries ``(B windows, heads, 49, c)``."""
        pairs = self.relative_position_bias_table[self.relative_position_index.flatten()]
        swin = rearrange(pairs, "(q k) h -> h q k", q=WINDOW * WINDOW)
        return relative_bias(q, self.rel_pos_h, self.rel_pos_w) + swin


class Block(nn.Module):
    """Pre-norm block; stochastic depth on both branches.

    Args:
        width: Channels C.
        attention: `RelativeAttention` or `WindowAttention`.
        hidden: Hidden width of the feed-forward branch.
        drop_path: Probability of dropping a branch.
    """

    def __init__(
        self,
        width: int,
        attention: RelativeAttention | WindowAttention,
        hidden: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Transform tokens ``(B, height * width, C)``."""
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class RVSA(nn.Module):
    """ViT whose blocks use RVSA, every ``interval``-th one global attention; any image size.

    Args:
        img_size: Image side, or (height, width), in px that the position embeddings are made for.
        patch_size: 16, or 8 for a pyramid at the same strides from finer tokens.
        in_chans: Bands.
        embed_dim: Width C.
        depth: Blocks.
        num_heads: Heads of each block.
        mlp_ratio: Hidden width of the feed-forward branch in multiples of C.
        qkv_bias: Whether the packed projections have a bias.
        out_indices: The four 0-based blocks whose outputs become maps, finest first.
        interval: Block i has global attention if ``(i + 1) % interval == 0``.
        use_abs_pos_emb: Adds the learned position embedding.
        use_rel_pos_bias: Adds relative positions within windows.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first.
        official_quirks: Reproduces oddities of the official code. Window offsets are divided by the
            number of windows along the *other* axis, and both tables of global relative positions
            are sized by the grid's height, their first rows being used along a shorter width. False
            divides along the same axis and sizes each table by its own side. On square grids, which
            every released checkpoint was trained on, both are the same. Besides, officially pixels
            beyond the last whole patch are dropped, where False pads to whole ones, and
            ``use_rel_pos_bias`` does nothing: windows always have relative positions.
        checkpointing: Recompute each block in the backward pass to save memory.

    Attributes:
        channels: ``(C, C, C, C)``.
        strides: ``(4, 8, 16, 32)``.
        pad_to: The patch size.

    Source:
        Dossier a.2.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 512,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        out_indices: Sequence[int] = (3, 5, 7, 11),
        interval: int = 3,
        use_abs_pos_emb: bool = True,
        use_rel_pos_bias: bool = True,
        drop_path_rate: float = 0.1,
        official_quirks: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if patch_size not in (8, 16):
            raise ValueError(f"patch_size={patch_size} has no neck; use 8 or 16")
        self.grid = patch_grid(img_size, patch_size)
        self.out_indices, self.checkpointing = tuple(out_indices), checkpointing
        self.channels, self.strides, self.pad_to = (embed_dim,) * 4, (4, 8, 16, 32), patch_size
        self.official_quirks = official_quirks

        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)}
        )
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], embed_dim))
            if use_abs_pos_emb
            else None
        )
        blocks = [
            Block(
                embed_dim,
                RelativeAttention(embed_dim, num_heads, qkv_bias, self.grid, official_quirks)
                if (i + 1) % interval == 0
                else WindowAttention(
                    embed_dim,
                    num_heads,
                    qkv_bias,
                    use_rel_pos_bias or official_quirks,
                    official_quirks,
                ),
                int(embed_dim * mlp_ratio),
                drop_path_rate * i / max(depth - 1, 1),
            )
            for i in range(depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.fpn1, self.fpn2, self.fpn3, self.fpn4 = neck_of(embed_dim, coarse=patch_size == 8)
        self._initialise(blocks)

    def _initialise(self, blocks: list[Block]) -> None:
        self.apply(init_linear)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        with torch.no_grad():
            for i, block in enumerate(blocks):
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.div_(math.sqrt(2 * (i + 1)))
                if isinstance(block.attn, WindowAttention):
                    for name in ("offsets", "scales", "angles"):  # start as plain windows
                        head = getattr(block.attn, f"sampling_{name}")[2]
                        nn.init.zeros_(head.weight)
                        nn.init.zeros_(head.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Four maps ``(B, C, h_i, w_i)``, finest first, of an image ``(B, in_chans, H, W)``."""
        size = self.pad_to
        if not self.official_quirks:
            image = F.pad(image, (0, -image.shape[-1] % size, 0, -image.shape[-2] % size))
        x = self.patch_embed["proj"](image)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        if self.pos_embed is not None:
            x = x + resize_position_embedding(self.pos_embed, self.grid, (height, width))
        maps = {}
        for i, block in enumerate(self.blocks):
            if self.checkpointing and self.training:
                x = checkpoint(block, x, height, width, use_reentrant=False)
            else:
                x = block(x, height, width)
            if i in self.out_indices:
                maps[i] = rearrange(x, "b (h w) c -> b c h w", h=height).contiguous()
        necks = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        return [neck(maps[i]) for neck, i in zip(necks, self.out_indices, strict=True)]


def rvsa(
    size: Literal["b", "l"] = "b",
    img_size: int | Sequence[int] = 512,
    in_channels: int = 3,
    checkpointing: bool = False,
) -> RVSA:
    """RVSA on ViT-B (global attention in every 3rd block) or ViT-L (every 6th).

    Args:
        size: ``"b"`` or ``"l"``.
        img_size: See `RVSA`.
        in_channels: Bands.
        checkpointing: See `RVSA`.
    """
    if size == "b":
        return RVSA(img_size, in_chans=in_channels, checkpointing=checkpointing)
    return RVSA(
        img_size,
        in_chans=in_channels,
        embed_dim=1024,
        depth=24,
        num_heads=16,
        out_indices=(7, 11, 15, 23),
        interval=6,
        checkpointing=checkpointing,
    )


def relative_bias(q: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """Logits that queries give to keys by their distance in rows and in columns.

    Args:
        q: Queries ``(B, heads, h * w, c)``, row-major.
        table_h: One vector per row distance, ``(2 h - 1, c)``, from -(h - 1) on.
        table_w: The same for columns, ``(2 w - 1, c)``.

    Returns:
        ``(B, heads, h * w, h * w)``.
    """
    height, width = (len(table_h) + 1) // 2, (len(table_w) + 1) // 2
    q = rearrange(q, "b n (y x) c -> b n y x c", y=height)
    by_row = torch.einsum("bnyxc,ykc->bnyxk", q, table_h[_distances(height, table_h.device)])
    by_column = torch.einsum("bnyxc,xkc->bnyxk", q, table_w[_distances(width, table_w.device)])
    bias = by_row[..., :, None] + by_column[..., None, :]
    return rearrange(bias, "b n y x k l -> b n (y x) (k l)")


def _distances(side: int, device: torch.device) -> Tensor:
    """Row of the table for each pair (query, key): query minus key, from 0 on."""
    position = torch.arange(side, device=device)
    return position[:, None] - position[None, :] + side - 1


def _window_index() -> Tensor:
    """Row of the Swin-style table for each pair of tokens in a window, int64 ``(49, 49)``."""
    distance = _distances(WINDOW, torch.device("cpu"))
    index = distance[:, None, :, None] * (2 * WINDOW - 1) + distance[None, :, None, :]
    return index.reshape(WINDOW**2, WINDOW**2)


def _window_padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Left, right, top, bottom padding to whole windows, as even as it goes."""
    x, y = -width % WINDOW, -height % WINDOW
    return x // 2, x - x // 2, y // 2, y - y // 2


def _window_head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(WINDOW, WINDOW), nn.LeakyReLU(), nn.Conv2d(width, out, 1))


def _centres(extent: int, like: Tensor) -> Tensor:
    """Window centres along a padded side, in -1..1."""
    position = torch.linspace(-1, 1, extent, device=like.device, dtype=like.dtype)
    return position.view(-1, WINDOW).mean(1)


def _inside(extent: int, like: Tensor) -> Tensor:
    """Token positions within a window, relative to its centre, in units of the padded extent."""
    position = torch.arange(WINDOW, device=like.device, dtype=like.dtype) * 2 / (extent - 1)
    return position - position.mean()
