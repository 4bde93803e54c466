"""Weights in the layout of the official S5 code, for those who go on there.

The way in needs nothing of this package: ``swath convert vit_b_s4p_upernet.pth --model s4p-vit-b``
takes a whole model, ``weights=`` of `swath.core.models.segmentation.s4p_segmenter` and of
``segmentation_model(backbone="vit_b")`` a backbone, MAE's or S4P's, or a run's checkpoint.
"""

import re
from pathlib import Path

import torch

from swath.core.checkpoint.official import backbone_part
from swath.core.checkpoint.safe import load_file
from swath.core.errors import CheckpointError
from swath.core.files import atomic_path
from swath.core.models.segmentation import official_keys

_BACKBONE = re.compile(r"(?!.*\.experts\.)")
_WHOLE = re.compile(
    r"encoder\.(?!.*\.experts\.)|semseghead\.1\.|semsegdecoder\.decode_head\."
    r"(psp_modules|bottleneck|lateral_convs|fpn_convs|fpn_bottleneck|conv_seg)\."
)
"""How official keys begin; experts are S5's fine-tuning, which another code reads."""


def export_official(
    checkpoint: str | Path, out: str | Path, *, backbone_only: bool = False
) -> dict[str, int]:
    """Write an S4P model as the official code stores it.

    Args:
        checkpoint: One of ours, as a run or ``swath convert`` has written it.
        out: ``*.pth`` to write: ``{"model": state}`` with the official keys.
        backbone_only: Only the ViT, as in ``vit_b_s4p.pth``; else all, as in
            ``vit_b_s4p_upernet.pth``.

    Returns:
        ``{"tensors": ..., "values": ...}``.

    Raises:
        CheckpointError: If a tensor of it has no place in the official layout, as another
            backbone, decoder or head, or experts; or ``out`` has another suffix.
    """
    out = Path(out)
    if out.suffix != ".pth":
        raise CheckpointError(f"{out}: the official code reads *.pth; name it so")
    state = load_file(checkpoint)
    if "backbone.patch_embed.projection.weight" not in state:
        raise CheckpointError(
            f"{checkpoint} holds no ViT as S4P trains it (its first tensor is "
            f"'{next(iter(state), '')}'); only such models have an official layout"
        )
    written = backbone_part(state) if backbone_only else official_keys(state)
    official = _BACKBONE if backbone_only else _WHOLE
    foreign = [key for key in written if not official.match(key)]
    if foreign:
        raise CheckpointError(
            f"{checkpoint}: '{foreign[0]}' has no place in the official layout, which is a ViT, or "
            "a ViT with UPerNet; only such models can be written"
        )
    with atomic_path(out) as temporary:
        torch.save({"model": written}, temporary)
    return {"tensors": len(written), "values": sum(v.numel() for v in written.values())}
