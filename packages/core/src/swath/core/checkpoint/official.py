"""From the key layouts of official checkpoints to ours, with every key accounted for."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.errors import CheckpointError

V = TypeVar("V")


def strip_prefixes(
    state: Mapping[str, V], prefixes: Sequence[str] = ("module.", "_orig_mod.")
) -> dict[str, V]:
    """Remove wrappers' prefixes from keys, repeatedly; default: DDP's and `torch.compile`'s."""
    stripped = {}
    for key, value in state.items():
        while prefix := next((p for p in prefixes if key.startswith(p)), None):
            key = key.removeprefix(prefix)
        stripped[key] = value
    return stripped


def resize_position_embedding(
    embedding: Tensor,
    old: tuple[int, int],
    new: tuple[int, int],
) -> Tensor:
    """Resize a position embedding to another grid; the same grid returns it untouched.

    Args:
        embedding: ``(1, h * w, C)`` without class tokens, row-major.
        old: Its grid ``(h, w)``.
        new: Grid ``(h', w')`` that is wanted.

    Returns:
        ``(1, h' * w', C)``, bicubic, align_corners=False.

    Source:
        MAE's fine-tuning code and S5's `ViT.init_weights` (dossier f.4) resize so.
    """
    if old == new:
        return embedding
    grid = embedding.transpose(1, 2).reshape(1, -1, *old)  # (1, C, h, w)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    return grid.flatten(2).transpose(1, 2)


def square_grid(embedding: Tensor) -> tuple[int, int]:
    """Rows and columns of a square position embedding ``(1, N, C)`` without class tokens.

    Raises:
        CheckpointError: If N isn't a square.
    """
    side = math.isqrt(embedding.shape[1])
    if side * side != embedding.shape[1]:
        raise CheckpointError(
            f"pos_embed has {embedding.shape[1]} rows besides extra tokens, which is no square "
            "grid; does the model have class tokens that weren't told of (extra_tokens)?"
        )
    return side, side


_MAE_RENAMES = (
    ("blocks.", "layers."),
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    ("patch_embed.proj.", "patch_embed.projection."),
    (".attn.qkv.", ".attn.attn.in_proj_"),
    (".attn.proj.", ".attn.attn.out_proj."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
)

_MAE_ONLY = ("norm.", "fc_norm.", "mask_token", "decoder_", "head.")


def mae_to_vit(
    state: Mapping[str, Tensor], grid: tuple[int, int], *, extra_tokens: int = 1
) -> dict[str, Tensor]:
    """Turn an MAE (timm-style) checkpoint into the encoder part of our `ViT`'s state.

    The final norm, the mask token and the decoder are dropped; the neck (``fpn*``) isn't in such a
    file and keeps its initial weights: load with ``load_strict(..., may_miss=("fpn",))``.

    Args:
        state: Keys ``blocks.*``, ``patch_embed.proj.*``, ``pos_embed``, ``cls_token``, ...
        grid: Rows and columns of patches of the model that will take it.
        extra_tokens: Rows at the front of ``pos_embed`` that belong to class tokens: 1 for MAE.

    Raises:
        CheckpointError: If the position embedding isn't that of a square grid.

    Source:
        S5 dossier f.4, official `ViT.init_weights`.
    """
    converted = {}
    for key, value in strip_prefixes(state).items():
        if key.startswith(_MAE_ONLY):
            continue
        if key == "pos_embed":
            value = value[:, extra_tokens:]
            value = resize_position_embedding(value, square_grid(value), grid).contiguous()
        for theirs, ours in _MAE_RENAMES:
            key = (
                ours + key.removeprefix(theirs)
                if key.startswith(theirs)
                else (key.replace(theirs, ours))
            )
        converted[key] = value
    return converted


def backbone_part(state: Mapping[str, V]) -> dict[str, V]:
    """The backbone of a segmentation model, official (``encoder.``) or ours; a backbone as it is.

    Args:
        state: With wrappers' prefixes or without.
    """
    state = strip_prefixes(state)
    for prefix in ("encoder.", "backbone."):
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if inside:
            return inside
    return state


def load_vit(model: nn.Module, state: Mapping[str, Tensor], *, where: str = "checkpoint") -> None:
    """Load a `ViT` from whatever brings one: S5's backbone, a whole segmentation model, or MAE.

    The position embedding is resized to the model's grid. MAE has no neck, which stays as it was
    initialised.

    Args:
        model: A `swath.core.backbones.vit.ViT`.
        state: Any of these layouts.
        where: What to call the checkpoint in an error.

    Raises:
        CheckpointError: If the rest doesn't fit to the last key.
    """
    grid: tuple[int, int] = model.grid  # type: ignore[assignment]
    state = backbone_part(state)
    if any(key.startswith("blocks.") for key in state):
        load_strict(model, mae_to_vit(state, grid), where=where, may_miss=("fpn",))
        return
    embedding = state.get("pos_embed")
    if embedding is not None and embedding.shape[1] != grid[0] * grid[1]:
        resized = mae_to_vit({"pos_embed": embedding}, grid, extra_tokens=0)
        state = {**state, **resized}
    load_strict(model, state, where=where)


def load_strict(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    where: str = "checkpoint",
    may_miss: Collection[str] = (),
) -> None:
    """Load a state with every key accounted for, or change nothing and say what differs.

    Args:
        model: Takes the weights.
        state: Its state dict.
        where: What to call the checkpoint in the error, usually its file name.
        may_miss: Prefixes of keys that the state needn't have; these keep their values.

    Raises:
        CheckpointError: One line with the missing, unexpected and mismatched keys, shortened.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.startswith(tuple(may_miss))]
    unexpected = [k for k in state if k not in own]
    mismatched = [
        f"{k} {tuple(v.shape)} instead of {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    if any(problems.values()):
        listed = "; ".join(f"{len(k)} {what}: {_shorten(k)}" for what, k in problems.items() if k)
        raise CheckpointError(
            f"{where} doesn't fit {type(model).__name__}: {listed}; check the model's name, size "
            "and number of classes"
        )
    model.load_state_dict(state, strict=not may_miss)


def _shorten(keys: Sequence[str], shown: int = 4) -> str:
    rest = len(keys) - shown
    return ", ".join(keys[:shown]) + (f" and {rest} more" if rest > 0 else "")
