"""The specialist: a DINO ViT pre-trained on remote-sensing imagery (GSNet's RSIB).

Papers: DINO, Caron et al. 2021, arXiv:2104.14294; GSNet, Ye et al. 2025, arXiv:2412.19492.
Official code: https://github.com/yecy749/GSNet, `gs_net/vision_transformer.py` and `GSNet.py`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.checkpoint.official import strip_prefixes
from swath.ovseg.clip import resized
from swath.ovseg.layers import check_choice

V = TypeVar("V")


class DINO(VisionTransformer):  # type: ignore[misc]
    """DINO's ViT by timm, whose parameter names are the released files'.

    Args:
        img_size: Side in px that the position embedding is made for.
        patch_size: Side of a patch, px.
        embed_dim: Channels C.
        depth: Blocks.
        num_heads: Heads.

    Source:
        Dossier section 5: ViT-B/8, layer norms of eps 1e-6, exact GELU; 85.8 M parameters.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
    ) -> None:
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            num_classes=0,
            global_pool="",
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            dynamic_img_size=True,
        )
        self.side, self.patch = img_size // patch_size, patch_size

    def forward(self, image: Tensor, grid: tuple[int, int], taps: Sequence[int]) -> list[Tensor]:
        """Outputs of the tapped blocks, each through the final norm, as maps ``(B, C, h, w)``.

        Args:
            image: float ``(B, 3, H, W)``; resized to the grid's number of patches.
            grid: Patches ``(h, w)``.
            taps: Blocks, 0-based, may be the same; those after the last don't run.
        """
        x = self.patch_embed(resized(image, (grid[0] * self.patch, grid[1] * self.patch)))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(1, 2)], 1)
        x = x + self.position_embedding(grid)
        maps = {}
        for number, block in enumerate(self.blocks[: max(taps) + 1]):
            x = block(x)
            if number in taps:
                maps[number] = self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, grid)
        return [maps[tap] for tap in taps]

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """The table ``(1, 1 + h * w, C)`` for a grid, bicubic where it isn't its own.

        DINO enlarges the table by ``(h + 0.1) / side`` and not by ``h / side``; weights were
        trained with it, and it differs visibly.
        """
        table: Tensor = self.pos_embed
        if grid == (self.side, self.side):
            return table
        patches = table[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))
        factors = [(n + 0.1) / self.side for n in grid]
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic")
        return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], 1)


class Specialist(nn.Module):
    """DINO's maps where the cost volume and the decoder want them.

    Args:
        embed_dim: Channels E of the generalist's features.
        guidance_dims: Channels of the two maps that guide the decoder.
        taps: Blocks of these two; the cost volume takes the last block.
        vit: Arguments of `DINO`.
        guides: Whether there are such maps; without, the cost volume is all that it serves.

    Source:
        Dossier section 5: `dino_decod_proj1`, `dino_decod_proj2` and `dino_down_sample`.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        guidance_dims: Sequence[int] = (256, 128),
        taps: Sequence[int] = (3, 7),
        vit: Mapping[str, int] | None = None,
        guides: bool = True,
    ) -> None:
        super().__init__()
        self.vit = DINO(**(vit or {}))
        self.taps, self.guides = (*taps, len(self.vit.blocks) - 1), guides
        width = self.vit.embed_dim
        if guides:
            self.decod_proj1 = nn.Conv2d(width, guidance_dims[0], 1)
            self.decod_proj2 = nn.ConvTranspose2d(width, guidance_dims[1], 2, stride=2)
        self.down_sample = nn.Conv2d(width, embed_dim, 2, stride=2)

    def forward(self, image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        """Features ``(B, E, h, w)`` and guidance of twice and four times that size; `[]` if none.

        Args:
            image: float ``(B, 3, H, W)``, normalised.
            grid: Cells ``(h, w)`` of the cost volume; the specialist has four patches in each.
        """
        first, second, last = self.vit(image, (2 * grid[0], 2 * grid[1]), self.taps)
        if not self.guides:
            return self.down_sample(last), []
        return self.down_sample(last), [self.decod_proj1(first), self.decod_proj2(second)]


def remap_dino_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of a DINO file (of its teacher) to `DINO`'s; the projection head is dropped.

    Args:
        state: With or without ``teacher``'s prefixes ``module.`` and ``backbone.``.
    """
    stripped = strip_prefixes(state, ("module.", "backbone."))
    return {key: value for key, value in stripped.items() if not key.startswith("head.")}


DINO_FINETUNING = ("freeze", "attention", "full")


def set_dino_finetuning(vit: DINO, mode: str) -> None:
    """Choose what of the specialist trains.

    ``"freeze"``: nothing, as published. ``"attention"``: packed projections of attention and the
    position embedding. ``"full"``: everything.

    Raises:
        ConfigError: If there is no such mode.
    """
    check_choice("dino_finetune", mode, DINO_FINETUNING)
    for name, parameter in vit.named_parameters():
        attention = "attn.qkv.weight" in name or "pos_embed" in name
        parameter.requires_grad_(mode == "full" or (mode == "attention" and attention))
