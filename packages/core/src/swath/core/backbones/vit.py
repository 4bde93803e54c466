"""The plain vision transformer of S5: global attention in every block, four maps by a simple neck.

Papers: S5, Lv et al. 2025, arXiv:2508.12409; neck of ViTDet, Li et al. 2022, arXiv:2203.16527.
Official code: https://github.com/MiliLab/S5, `S4_Pretrain/model/backbone/vit.py`. Parameter names
are those of its checkpoints, so that they load strictly as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swath.core.checkpoint.official import resize_position_embedding


class DropPath(nn.Module):
    """Drop a residual branch of whole samples at random in training, scaling the kept ones.

    Args:
        rate: Probability of dropping.

    Source:
        Huang et al. 2016, arXiv:1603.09382 (stochastic depth).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` ``(B, ...)`` with some samples zeroed."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


class SelfAttention(nn.Module):
    """Multi-head self-attention with the packed parameters of `nn.MultiheadAttention`.

    Args:
        width: Channels C.
        num_heads: Heads; divides C.
        qkv_bias: Whether the two projections have biases.
    """

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width, device=None))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width)) if qkv_bias else None
        self.out_proj = nn.Linear(width, width, bias=qkv_bias)
        nn.init.trunc_normal_(self.in_proj_weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within tokens ``(B, N, C)``."""
        batch, tokens, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, C / heads)
        x = self.out_proj(x.transpose(1, 2).reshape(batch, tokens, width))
        return x


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; the names that Swin, MAE and timm give its layers.

    Args:
        width: Channels C.
        hidden: Channels in between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens ``(..., C)``."""
        x = self.fc2(F.gelu(self.fc1(x)))
        return x


class FeedForward(nn.Module):
    """The same with the names that mmcv gives its layers.

    Args:
        width: Channels C.
        hidden: Channels in between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU()), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens ``(B, N, C)``."""
        x = self.layers(x)
        return x


class Layer(nn.Module):
    """One pre-norm transformer block; stochastic depth acts on the feed-forward branch only.

    Args:
        width: Channels C.
        num_heads: Heads.
        ffn: Feed-forward branch, ``(B, N, C) -> (B, N, C)``; `forward` hands it what else it gets.
        qkv_bias: See `SelfAttention`.
        drop_path: Probability of dropping the feed-forward branch.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        ffn: nn.Module,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width, eps=1e-5)  # MAE weights were trained with 1e-6
        self.attn = nn.ModuleDict({"attn": SelfAttention(width, num_heads, qkv_bias)})
        self.ln2 = nn.LayerNorm(width, eps=1e-5)
        self.ffn = ffn
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *routing: Tensor | int) -> Tensor:
        """Transform tokens ``(B, N, C)``."""
        x = x + self.attn["attn"](self.ln1(x))
        x = x + self.drop_path(self.ffn(self.ln2(x), *routing))
        return x


class PatchEmbedding(nn.Module):
    """Zero-pad right and below to whole patches and project each to one token.

    Args:
        in_channels: Bands.
        width: Channels C of a token.
        patch_size: Side of a patch, px.
    """

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image ``(B, in_channels, H, W)`` to ``(B, C, ceil(H / P), ceil(W / P))``."""
        height, width = image.shape[-2:]
        size = self.patch_size
        image = F.pad(image, (0, -width % size, 0, -height % size))
        image = self.projection(image)
        return image


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of a map.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``."""
        x = self.ln(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x


class ViT(nn.Module):
    """Plain ViT with a four-level neck; any image size.

    Tokens of a grid other than the constructor's get the position embedding resized to it
    (bicubic); on the constructor's grid it is added untouched, as in the official code, which knows
    no other.

    Args:
        img_size: Image side, or (height, width), in px that the position embedding is made for.
        patch_size: Side of a patch, px.
        in_channels: Bands.
        embed_dims: Width C.
        num_layers: Blocks.
        num_heads: Heads of each block.
        mlp_ratio: Hidden width of the feed-forward branch in multiples of C.
        out_indices: The four 0-based blocks whose outputs become maps, finest first.
        qkv_bias: See `SelfAttention`.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first.
        checkpointing: Recompute each block in the backward pass to save memory.
        ffn: Makes the feed-forward branch of a block from its width and hidden width.
        coarse_neck: See `neck_of`; S5's neck for patches of 8.

    Attributes:
        channels: ``(C, C, C, C)``.
        strides: ``(4, 8, 16, 32)`` for patches of 16, and for those of 8 with the coarse neck.
        pad_to: The patch size.
        cls_token: Frozen: it never influences anything, officially neither, and is kept so that
            keys and parameter counts match.

    Source:
        S5 dossier a.1: norms inside blocks have eps 1e-5, the neck's 1e-6; there is no final norm.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 512,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dims: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4,
        out_indices: Sequence[int] = (3, 5, 7, 11),
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
        checkpointing: bool = False,
        ffn: Callable[[int, int], nn.Module] = FeedForward,
        coarse_neck: bool = False,
    ) -> None:
        super().__init__()
        if len(out_indices) != 4 or max(out_indices) >= num_layers:
            raise ValueError(
                f"out_indices={tuple(out_indices)} must be four blocks below "
                f"num_layers={num_layers}"
            )
        self.grid = patch_grid(img_size, patch_size)
        self.out_indices, self.checkpointing = tuple(out_indices), checkpointing
        self.channels = (embed_dims,) * 4
        finest = patch_size // (2 if coarse_neck else 4)
        self.strides = (finest, 2 * finest, 4 * finest, 8 * finest)
        self.pad_to = patch_size

        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims), requires_grad=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], embed_dims))
        self.patch_embed = PatchEmbedding(in_channels, embed_dims, patch_size)
        self.layers = nn.ModuleList(
            Layer(
                embed_dims,
                num_heads,
                ffn(embed_dims, int(embed_dims * mlp_ratio)),
                qkv_bias,
                drop_path_rate * i / max(num_layers - 1, 1),
            )
            for i in range(num_layers)
        )
        self.fpn1, self.fpn2, self.fpn3, self.fpn4 = neck_of(embed_dims, coarse_neck)
        self.apply(init_linear)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, image: Tensor, *routing: Tensor | int) -> list[Tensor]:
        """Four maps ``(B, C, h_i, w_i)``, finest first, of an image ``(B, in_channels, H, W)``.

        ``routing`` goes to every feed-forward branch; a plain one takes none.
        """
        maps = self.taps(image, *routing)
        necks = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        return [neck(x) for neck, x in zip(necks, maps, strict=True)]

    def taps(self, image: Tensor, *routing: Tensor | int) -> list[Tensor]:
        """Outputs of the tapped blocks as maps ``(B, C, ceil(H / P), ceil(W / P))``."""
        x = self.patch_embed(image)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        x = x + resize_position_embedding(self.pos_embed, self.grid, (height, width))
        maps = {}
        for i, layer in enumerate(self.layers):
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, *routing, use_reentrant=False)
            else:
                x = layer(x, *routing)
            if i in self.out_indices:
                maps[i] = x.transpose(1, 2).unflatten(2, (height, width))
        return [maps[i].contiguous() for i in self.out_indices]


class Pool(nn.Module):
    """Max pooling of K x K pixels into one; of a map too small for that, what there is.

    Args:
        size: K.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w) -> (B, C, h // K, w // K)``; rounded up where a side is below K."""
        return F.max_pool2d(x, self.size, ceil_mode=min(x.shape[-2:]) < self.size)


def neck_of(width: int, coarse: bool = False) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """Layers that make a map of each of four taps, finest first.

    Args:
        width: Channels C of taps and maps.
        coarse: Maps at half, once, twice and four times the stride of the tokens, as S5 has them
            for patches of 8; False: at a quarter, half, once and twice, as for those of 16.
    """

    def double() -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(width, width, 2, stride=2)

    if coarse:
        return nn.Sequential(double()), nn.Identity(), Pool(2), Pool(4)
    return (
        nn.Sequential(double(), ChannelLayerNorm(width), nn.GELU(), double()),
        nn.Sequential(double()),
        nn.Identity(),
        Pool(2),
    )


Size = Literal["b", "l", "h"]

SIZES: dict[str, dict[str, Any]] = {
    "b": {"embed_dims": 768, "num_layers": 12, "num_heads": 12, "out_indices": (3, 5, 7, 11)},
    "l": {"embed_dims": 1024, "num_layers": 24, "num_heads": 16, "out_indices": (7, 11, 15, 23)},
    "h": {"embed_dims": 1280, "num_layers": 32, "num_heads": 16, "out_indices": (15, 23, 27, 31)},
}
"""Arguments of `ViT` that S5 gives each size."""


def vit(
    size: Size = "b",
    img_size: int | Sequence[int] = 512,
    in_channels: int = 3,
    checkpointing: bool = False,
) -> ViT:
    """ViT-B, L or H as S5 configures them: 93,513,984, 316,734,464, 651,641,600 parameters at 512.

    Args:
        size: ``"b"``, ``"l"`` or ``"h"``.
        img_size: See `ViT`.
        in_channels: Bands.
        checkpointing: See `ViT`.

    Source:
        S5 dossier, table of a.1.
    """
    return ViT(
        img_size=img_size, in_channels=in_channels, checkpointing=checkpointing, **SIZES[size]
    )


def patch_grid(img_size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches of an image side or (height, width), rounded down."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return height // patch_size, width // patch_size


def init_linear(module: nn.Module) -> None:
    """Truncated normal (std 0.02) weights and zero biases for linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
