"""Backbones: ``forward(image) -> list of maps``, ``channels``, ``strides``; any image size."""

from pathlib import Path
from typing import Any

from torch import nn

OWN = ("vit_b", "vit_l", "vit_h", "rvsa_b", "rvsa_l", "swin_t", "swin_s", "swin_b", "swin_l")
"""Names of our own backbones; every other name is timm's."""


def build_backbone(
    name: str,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    img_size: int = 512,
    checkpointing: bool = False,
) -> nn.Module:
    """Build a backbone by name.

    Args:
        name: One of `OWN` or any timm model that gives feature maps.
        in_channels: Bands of the image.
        pretrained: Lets timm fetch its weights; our own backbones have none to fetch.
        weights: File with the backbone's weights, loaded strictly, or where to fetch it: for our
            own a backbone in S5's layout, a segmentation model with one (official or ours, so a
            run's checkpoint too), for a plain ViT MAE's, for Swin its official classifier;
            timm's for timm's.
        img_size: Side in px that a ViT's position embedding is made for.
        checkpointing: Recompute activations in the backward pass, where the backbone can.

    Raises:
        ConfigError: If nobody knows the name, or ``pretrained`` is asked of our own backbones.
        CheckpointError: If ``weights`` doesn't fit.
    """
    import timm

    from swath.core.backbones.rvsa import rvsa
    from swath.core.backbones.swin import load_swin, swin
    from swath.core.backbones.timm import TimmPyramid
    from swath.core.backbones.vit import vit
    from swath.core.checkpoint.fetch import locate
    from swath.core.checkpoint.official import backbone_part, load_strict, load_vit
    from swath.core.checkpoint.safe import load_file
    from swath.core.errors import ConfigError, suggest

    if name not in OWN:
        if not timm.is_model(name):
            raise ConfigError(
                f"unknown backbone '{name}'{suggest(name, [*OWN, *timm.list_models()])[:300]}"
            )
        return TimmPyramid(
            name,
            in_channels=in_channels,
            pretrained=pretrained,
            weights=weights,
            img_size=img_size,
            checkpointing=checkpointing,
        )
    if pretrained:
        raise ConfigError(
            f"'{name}' has no weights to fetch; give a local file with weights=..., where to get "
            "one: `swath models`"
        )
    family, size = name.split("_")
    build: Any = {"vit": vit, "rvsa": rvsa, "swin": swin}[family]
    sized = {} if family == "swin" else {"img_size": img_size}  # Swin knows no position but windows
    backbone: nn.Module = build(size, in_channels=in_channels, checkpointing=checkpointing, **sized)
    if weights is not None:
        state, where = load_file(locate(weights)), str(weights)
        if family == "vit":
            load_vit(backbone, state, where=where)
        elif family == "swin":
            load_swin(backbone, backbone_part(state), where=where)
        else:
            load_strict(backbone, backbone_part(state), where=where)
    return backbone
