"""Models that begin with the weights their papers begin with: CLIP, RemoteCLIP and the specialist.

All from local files in the formats they are published in; nothing is fetched.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from swath.core.checkpoint.fetch import locate
from swath.core.checkpoint.official import load_strict
from swath.core.checkpoint.safe import load_file
from swath.core.errors import CheckpointError
from swath.ovseg.clip import (
    CLIP,
    CLIP_SIZES,
    ConvNeXtCLIP,
    clip_arguments,
    remap_clip_keys,
)
from swath.ovseg.dino import DINO, remap_dino_keys
from swath.ovseg.models.base import OpenVocabularySegmenter
from swath.ovseg.torchscript import is_torchscript, read_torchscript

_TOWERS = ("clip", "remote_clip", "specialist")


def clip_size(path: str | Path) -> dict[str, Any]:
    """Arguments of `CLIP` that fit a file, for the ``size`` that a model is built with.

    Args:
        path: OpenAI's file, RemoteCLIP's, GeoRSCLIP's, or any other in their layout.

    Raises:
        CheckpointError: If it is no CLIP with a vision transformer.
    """
    return clip_arguments(_clip_state(path), where=str(path))


def load_clip(clip: CLIP, path: str | Path, *, round_to_half: bool = False) -> None:
    """Load a CLIP file: OpenAI's, RemoteCLIP's, GeoRSCLIP's, or any other in their layout.

    Args:
        clip: Takes the weights.
        path: The file.
        round_to_half: See `swath.ovseg.clip.remap_clip_keys`.

    Raises:
        CheckpointError: If it is no CLIP, or one of another size.
    """
    state = _clip_state(path)
    has, wants = clip_arguments(state, where=str(path)), clip_arguments(clip.state_dict())
    if has != wants:
        other = ", ".join(f"{k}={has[k]} for {wants[k]}" for k in has if has[k] != wants[k])
        raise CheckpointError(
            f"{path} is a CLIP of another size: {other}; build the model with size=clip_size(FILE) "
            f"of {__name__}, or one of {', '.join(CLIP_SIZES)}"
        )
    load_strict(clip, remap_clip_keys(state, round_to_half=round_to_half), where=str(path))


def _clip_state(path: str | Path) -> dict[str, Tensor]:
    file = locate(path)
    return read_torchscript(file) if is_torchscript(file) else load_file(file)


def load_specialist(vit: DINO, path: str | Path) -> None:
    """Load a DINO file, its teacher if it holds both.

    Args:
        vit: Takes the weights.
        path: The file.

    Raises:
        CheckpointError: If it is another model.
    """
    load_strict(vit, remap_dino_keys(load_file(locate(path))), where=str(path))


def pretrained(
    model: OpenVocabularySegmenter,
    weights: Mapping[str, str | Path] | None = None,
    *,
    checkpointing: bool = False,
    round_to_half: bool = False,
) -> OpenVocabularySegmenter:
    """A model as training begins: with the weights of its towers from their own files.

    Args:
        model: As built.
        weights: Files by tower: ``"clip"``, ``"remote_clip"``, ``"specialist"``.
        checkpointing: Recompute the activations of CLIP's image tower in the backward pass.
        round_to_half: See `swath.ovseg.clip.remap_clip_keys`; the published recipes do.

    Returns:
        The model.

    Raises:
        CheckpointError: If a file isn't there or doesn't fit its tower, or the model has no such
            tower.
    """
    model.set_checkpointing(checkpointing)
    for name, path in (weights or {}).items():
        tower: Any = getattr(model, name, None) if name in _TOWERS else None
        if tower is None:
            raise CheckpointError(
                f"{path}: this {type(model).__name__} has no {name}; leave it out"
            )
        file = locate(path)
        if not file.is_file():
            raise CheckpointError(
                f"{file}: no such file; the {name} begins with it, and `swath configs NAME` says "
                "how to run the recipe"
            )
        if isinstance(tower, CLIP):
            load_clip(tower, path, round_to_half=round_to_half)
        elif isinstance(tower, ConvNeXtCLIP):  # open_clip's layout is ours
            load_strict(tower, load_file(locate(path)), where=str(path))
        else:
            load_specialist(tower.vit, path)
    return model
