"""CLIP as a dense generalist: open_clip's towers, and the value-only path of its last block.

Papers: CLIP, Radford et al. 2021, arXiv:2103.00020; dense features by values alone, Zhou et al.
2022 (MaskCLIP), arXiv:2112.01071; as used by CAT-Seg, Cho et al. 2024, arXiv:2303.11797; its
ConvNeXt as used by SED, Xie et al. 2024, arXiv:2311.15537.
Official code: https://github.com/cvlab-kaist/CAT-Seg, `cat_seg/third_party/model_vpt.py`, the same
in GSNet and RSKT-Seg. Parameter names are those of its checkpoints: OpenAI's, with the packed
projection of attention split in three, of which q and v are fine-tuned alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.checkpoint.official import resize_position_embedding
from swath.core.errors import CheckpointError
from swath.ovseg.layers import check_choice

CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.3231630)
"""Statistics of RGB in 0..255 that CLIP, RemoteCLIP and the specialist all get."""


class Attention(nn.Module):
    """Multi-head self-attention with a parameter each for queries, keys and values.

    Args:
        width: Channels C.
        heads: Heads; divides C.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj_weight = nn.Parameter(torch.empty(width, width, device=None))
        self.k_proj_weight = nn.Parameter(torch.empty(width, width, device=None))
        self.v_proj_weight = nn.Parameter(torch.empty(width, width, device=None))
        for weight in (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            nn.init.normal_(weight, std=width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend within tokens ``(B, N, C)``; called as open_clip's blocks call torch's module.

        Only ``query`` is read: self-attention hands over the same tokens three times.
        """
        batch, tokens, width = query.shape
        weight = torch.cat([self.q_proj_weight, self.k_proj_weight, self.v_proj_weight])
        qkv = F.linear(query, weight, self.in_proj_bias)
        q, k, v = qkv.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(x.transpose(1, 2).reshape(batch, tokens, width)), None

    def values(self, x: Tensor) -> Tensor:
        """What each token ``(B, N, C)`` would contribute if it attended to itself alone."""
        bias = self.in_proj_bias.chunk(3)[2]
        x = self.out_proj(F.linear(x, self.v_proj_weight, bias))
        for unused in (self.q_proj_weight, self.k_proj_weight):
            if unused.requires_grad:  # a zero gradient: DDP and weight decay want one
                x = x + 0.0 * unused.sum()
        return x


class LeanCLIP(open_clip.CLIP):  # type: ignore[misc]
    """open_clip's CLIP with a text tower that reads no padding."""

    def set_checkpointing(self, on: bool) -> None:
        """Recompute the activations of the image tower in the backward pass, to save memory."""
        raise NotImplementedError

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Features ``(N, E)`` of token ids ``(N, L)``.

        Because of the causal mask, nothing after a text's end (its largest id) can matter: ids may
        be cut at the longest text, which `swath.ovseg.prompts.tokenize` does.

        Args:
            text: int64, zero-padded, L at most the context's length.
            normalize: To unit length.
        """
        ends, length = text.argmax(-1), text.shape[1]
        x = self.token_embedding(text) + self.positional_embedding[:length]
        mask = self.attn_mask[:length, :length]
        for block in self.transformer.resblocks:
            x = block(x, attn_mask=mask)
        x = x[torch.arange(len(x), device=x.device), ends]
        x = self.ln_final(x) @ self.text_projection
        return F.normalize(x, dim=-1) if normalize else x


class CLIP(LeanCLIP):
    """open_clip's CLIP with a ViT that gives dense features.

    Args:
        embed_dim: Channels E that image and text share.
        image_size: Side in px that the position embedding is made for.
        patch_size: Side of a patch, px.
        vision_width: Channels C of the image tower.
        vision_layers: Its blocks.
        vision_head_width: Channels of each of its heads.
        context_length: Most tokens of a text.
        vocab_size: Tokens there are.
        text_width: Channels of the text tower.
        text_heads: Its heads.
        text_layers: Its blocks.
        quick_gelu: ``x * sigmoid(1.702 x)``, which OpenAI's and RemoteCLIP's weights expect, and
            those that began with OpenAI's; those that began with LAION's expect GELU.

    Source:
        Dossier section 2. ViT-B/16 has 149.6 M parameters, ViT-L/14 427.9 M.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        image_size: int = 224,
        patch_size: int = 16,
        vision_width: int = 768,
        vision_layers: int = 12,
        vision_head_width: int = 64,
        context_length: int = 77,
        vocab_size: int = 49408,
        text_width: int = 512,
        text_heads: int = 8,
        text_layers: int = 12,
        quick_gelu: bool = True,
    ) -> None:
        vision = {
            "image_size": image_size,
            "patch_size": patch_size,
            "width": vision_width,
            "layers": vision_layers,
            "head_width": vision_head_width,
        }
        text = {
            "context_length": context_length,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text_heads,
            "layers": text_layers,
        }
        super().__init__(embed_dim, vision, text, quick_gelu=quick_gelu)
        self.embed_dim, self.patch_size, self.vision_width = embed_dim, patch_size, vision_width
        self.checkpointing = False
        for tower in (self.visual, self):
            for block in tower.transformer.resblocks:
                block.attn = Attention(block.attn.embed_dim, block.attn.num_heads)

    def set_checkpointing(self, on: bool) -> None:
        """See `LeanCLIP`."""
        self.checkpointing = on

    def dense(
        self, image: Tensor, grid: tuple[int, int], taps: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Features of every patch in the space of texts, and maps on the way there.

        The last block attends to nothing: each token passes its own value on, with the class token
        before that block as the residual.

        Args:
            image: float ``(B, 3, H, W)``, normalised; resized to the grid's number of patches.
            grid: Patches ``(h, w)``.
            taps: Blocks whose outputs are wanted, 0-based.

        Returns:
            Features ``(B, E, h, w)``, not normalised, and a map ``(B, C, h, w)`` for each tap.
        """
        tokens, tapped = self.dense_tokens(image, grid, taps)
        return _as_map(tokens, grid), [_as_map(x, grid) for x in tapped]

    def dense_tokens(
        self, image: Tensor, grid: tuple[int, int], taps: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The same as tokens ``(B, 1 + h * w, E)`` and ``(B, 1 + h * w, C)``, class token first."""
        blocks = self.visual.transformer.resblocks
        x, tapped = self._run(self.embed(image, grid), len(blocks) - 1, taps)
        last = blocks[-1]
        x = x[:, :1] + last.ls_1(last.attn.values(last.ln_1(x)))
        x = x + last.ls_2(last.mlp(last.ln_2(x)))
        return self.visual.ln_post(x) @ self.visual.proj, tapped

    def tapped_maps(
        self, image: Tensor, grid: tuple[int, int], taps: Sequence[int]
    ) -> list[Tensor]:
        """Only the maps of `dense` ``(B, C, h, w)``; blocks after the last of them don't run."""
        _, tapped = self._run(self.embed(image, grid), max(taps) + 1, taps)
        return [_as_map(x, grid) for x in tapped]

    def embed(self, image: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens ``(B, 1 + h * w, C)`` before the first block."""
        visual = self.visual
        image = resized(image, (grid[0] * self.patch_size, grid[1] * self.patch_size))
        x = visual.conv1(image).flatten(2).transpose(1, 2)
        token = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([token, x], 1) + self.position_embedding(grid).to(x.dtype)
        tokens: Tensor = visual.ln_pre(x)
        return tokens

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """The table ``(1 + h * w, C)`` for a grid, bicubic where it isn't its own."""
        table: Tensor = self.visual.positional_embedding
        patches = table[None, 1:]
        patches = resize_position_embedding(patches, tuple(self.visual.grid_size), grid)
        return torch.cat([table[:1], patches[0]])

    def _run(self, x: Tensor, count: int, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        tapped = []
        for number, block in enumerate(self.visual.transformer.resblocks[:count]):
            if self.checkpointing and self.training:
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if number in taps:
                tapped.append(x)
        return x, tapped


class ConvNeXtCLIP(LeanCLIP):
    """open_clip's CLIP with a ConvNeXt, each cell of whose last map is projected like its mean.

    Args:
        embed_dim: Channels E that image and text share.
        image_size: Side in px that it was pre-trained with; any multiple of 32 will do.
        trunk: timm's name of the ConvNeXt.
        proj: Its projection: ``"linear"`` or ``"mlp"``.
        text_width: Channels of the text tower.
        text_heads: Its heads.
        text_layers: Its blocks.
        context_length: Most tokens of a text.
        vocab_size: Tokens there are.

    Source:
        SED, Xie et al. 2024, arXiv:2311.15537, section 3.2; open_clip's ``convnext_base_w_320``.
    """

    def __init__(
        self,
        embed_dim: int = 640,
        image_size: int = 320,
        trunk: str = "convnext_base",
        proj: str = "linear",
        text_width: int = 640,
        text_heads: int = 10,
        text_layers: int = 12,
        context_length: int = 77,
        vocab_size: int = 49408,
    ) -> None:
        vision = {
            "timm_model_name": trunk,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": proj,
            "image_size": image_size,
        }
        text = {
            "context_length": context_length,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text_heads,
            "layers": text_layers,
        }
        super().__init__(embed_dim, vision, text)
        self.embed_dim = embed_dim

    def set_checkpointing(self, on: bool) -> None:
        """See `LeanCLIP`."""
        self.visual.trunk.set_grad_checkpointing(on)

    def dense(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features of every cell in the space of texts, and the maps of the four stages.

        Args:
            image: float ``(B, 3, H, W)``, normalised; sides are multiples of 32.

        Returns:
            Features ``(B, E, H / 32, W / 32)``, not normalised, and maps of strides 4, 8, 16, 32.
        """
        trunk = self.visual.trunk
        x, maps = trunk.stem(image), []
        for stage in trunk.stages:
            x = stage(x)
            maps.append(x)
        cells = trunk.head.norm(trunk.norm_pre(x)).permute(0, 2, 3, 1)
        return self.visual.head(cells).permute(0, 3, 1, 2), maps


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(B, C, H, W)`` bilinearly; an image of that size is returned as it is."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False)


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    maps: Tensor = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
    return maps


_LARGE: dict[str, Any] = {
    "embed_dim": 768,
    "patch_size": 14,
    "vision_width": 1024,
    "vision_layers": 24,
    "text_width": 768,
    "text_heads": 12,
}
CLIP_SIZES: dict[str, dict[str, Any]] = {
    "b": {},
    "b32": {"patch_size": 32},
    "l": _LARGE | {"image_size": 336},
    "l224": _LARGE,
    "h": {
        "embed_dim": 1024,
        "patch_size": 14,
        "vision_width": 1280,
        "vision_layers": 32,
        "vision_head_width": 80,
        "text_width": 1024,
        "text_heads": 16,
        "text_layers": 24,
        "quick_gelu": False,
    },
}
"""Arguments of `CLIP` by the names that models are built with: ViT-B/16, ViT-B/32, ViT-L/14 at 336
and 224 px (OpenAI's, and the RemoteCLIP and GeoRSCLIP that began with them), ViT-H/14 (LAION's)."""

Size = str | Mapping[str, Any]
"""Of a model's CLIP: a name of `CLIP_SIZES`, or arguments of `CLIP`."""


def sized(size: Size) -> Mapping[str, Any]:
    """The arguments of `CLIP`.

    Raises:
        ConfigError: If there is no such name.
    """
    if not isinstance(size, str):
        return size
    check_choice("size", size, tuple(CLIP_SIZES))
    return CLIP_SIZES[size]


def guiding_blocks(size: Size) -> tuple[int, int]:
    """Blocks of the image tower that guide a decoder, 0-based: those after each of two thirds.

    As published: 3 and 7 of ViT-B's twelve, 7 and 15 of ViT-L's 24.
    """
    layers = sized(size).get("vision_layers", 12)
    return layers // 3 - 1, 2 * layers // 3 - 1


def clip_arguments(state: Mapping[str, Tensor], *, where: str = "weights") -> dict[str, Any]:
    """Arguments of `CLIP` that fit a state dict, ours or OpenAI's.

    What shapes don't say follows from what is published: heads are 64 wide, or 16 in number if that
    makes them wider, and image towers wider than ViT-L's began with LAION's weights.

    Args:
        state: The state dict.
        where: The file it is from, for the message.

    Raises:
        CheckpointError: If it isn't that of a CLIP with a vision transformer.
    """
    missing = [key for key in _TELLING if key not in state]
    if missing:
        raise CheckpointError(
            f"{where}: no CLIP with a vision transformer, {missing[0]} is missing; give a file in "
            "OpenAI's layout (RemoteCLIP's and GeoRSCLIP's are)"
        )
    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    text_width, embed_dim = state["text_projection"].shape
    return {
        "embed_dim": embed_dim,
        "image_size": side * patch,
        "patch_size": patch,
        "vision_width": width,
        "vision_layers": _depth(state, "visual.transformer.resblocks."),
        "vision_head_width": max(64, width // 16),
        "context_length": len(state["positional_embedding"]),
        "vocab_size": len(state["token_embedding.weight"]),
        "text_width": text_width,
        "text_heads": text_width // 64,
        "text_layers": _depth(state, "transformer.resblocks."),
        "quick_gelu": width <= _LARGE["vision_width"],
    }


_TELLING = (
    "visual.conv1.weight",
    "visual.proj",
    "visual.positional_embedding",
    "text_projection",
    "positional_embedding",
    "token_embedding.weight",
)


def _depth(state: Iterable[str], prefix: str) -> int:
    return 1 + max(int(k.removeprefix(prefix).split(".")[0]) for k in state if k.startswith(prefix))


_ARCHIVE_SCALARS = ("input_resolution", "context_length", "vocab_size")
_PACKED = "attn.in_proj_weight"


def remap_clip_keys(
    state: Mapping[str, Tensor], *, round_to_half: bool = False
) -> dict[str, Tensor]:
    """Turn a CLIP file in OpenAI's layout into our `CLIP`'s state.

    Args:
        state: Of OpenAI's, RemoteCLIP's, GeoRSCLIP's or open_clip's file.
        round_to_half: Pass weights and biases of convolutions, linear layers and attention and
            both projections through float16, as the official loader does. OpenAI's are half
            already; RemoteCLIP's aren't, and RSKT-Seg was trained on the rounded ones.

    Returns:
        float32 tensors with the packed attention weights split in three.
    """
    converted = {}
    for key, value in state.items():
        if key in _ARCHIVE_SCALARS:
            continue
        if round_to_half and _rounded_officially(key):
            value = value.half()
        value = value.float()
        if key.endswith(_PACKED):
            base = key.removesuffix(_PACKED)
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                converted[f"{base}attn.{letter}_proj_weight"] = part.contiguous()
        else:
            converted[key] = value
    return converted


def _rounded_officially(key: str) -> bool:
    return (
        ".attn." in key
        or ".mlp." in key
        or key in ("visual.conv1.weight", "visual.proj", "text_projection")
    )


FINETUNING = ("attention", "full", "freezeIMG", "frozen", "everything")


def set_finetuning(clip: CLIP, mode: str) -> None:
    """Choose which of CLIP's parameters train, as the official code does by their names.

    ``"attention"``: query and value projections of both towers, and nothing else: although its
    authors meant otherwise, no position embedding. ``"full"``: all blocks of both towers.
    ``"freezeIMG"``: query and value projections of the text tower, and its position embedding.
    ``"frozen"``: nothing. (``"prompt"`` trains learned prompts, which no published model has.)
    ``"everything"``, ours: all but the temperature, which nothing reads here, for a CLIP from
    scratch.

    Raises:
        ConfigError: If there is no such mode.
    """
    check_choice("finetune", mode, FINETUNING)
    for name, parameter in clip.named_parameters():
        attention = "q_proj" in name or "v_proj" in name
        parameter.requires_grad_(
            (mode == "everything" and name != "logit_scale")
            or (mode == "attention" and attention)
            or (mode == "full" and "transformer" in name)
            or (mode == "freezeIMG" and "visual" not in name and (attention or "position" in name))
        )
