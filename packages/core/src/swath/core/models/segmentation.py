"""A segmentation model from any backbone and any decoder, and the S4P model of S5.

Paper: S5: Scalable Semi-Supervised Semantic Segmentation in Remote Sensing, Lv et al. 2025,
arXiv:2508.12409.
Official code: https://github.com/MiliLab/S5, `S4_Pretrain/model/semseg/upernet.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.backbones import build_backbone
from swath.core.backbones.vit import vit
from swath.core.checkpoint.fetch import locate
from swath.core.checkpoint.official import load_strict, load_vit
from swath.core.checkpoint.safe import load_file
from swath.core.heads import LightDecoder, UPerNet
from swath.core.heads.upernet import Norm

V = TypeVar("V")


class SegmentationModel(nn.Module):
    """Backbone, decoder, one 1 x 1 convolution: logits at the size of the image.

    Any image size works: the image is zero-padded on the right and below to what the backbone needs
    and the logits are cropped back.

    Args:
        backbone: ``forward(image) -> list of maps``, finest first, with ``channels`` and
            ``strides``; ``pad_to`` (default: the largest stride) is the multiple to pad to.
        decoder: ``forward(list of maps) -> map`` at the finest stride, with ``out_channels``.
        num_classes: K.
        dropout: Probability of dropping a channel before the classifier, in training.
        align_corners: How the logits are upsampled. False keeps a tile's logits those of the whole
            scene; True is what S5's checkpoints were trained with.
        crop_padding: False upsamples the padded map straight to the image's size, as officially:
            the classes of an image that needs padding are then displaced by up to the padding.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: nn.Module,
        num_classes: int,
        dropout: float = 0.1,
        align_corners: bool = False,
        crop_padding: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.decoder = backbone, decoder
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(_int(decoder.out_channels), num_classes, 1)
        self.align_corners, self.crop_padding = align_corners, crop_padding
        self.pad_to = _int(getattr(backbone, "pad_to", None) or max(_ints(backbone.strides)))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, H, W)`` of float images ``(B, C, H, W)``."""
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.pad_to, 0, -height % self.pad_to))
        logits = self.classifier(self.dropout(self.decoder(self.backbone(image))))
        size = image.shape[-2:] if self.crop_padding else (height, width)
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=self.align_corners)
        return logits[..., :height, :width]


Decoder = Literal["light", "upernet"]


def segmentation_model(
    backbone: str = "resnet18",
    decoder: Decoder = "light",
    num_classes: int = 2,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    img_size: int = 512,
    width: int | None = None,
    norm: Norm = "bn",
    dropout: float = 0.1,
    checkpointing: bool = False,
) -> SegmentationModel:
    """Build a segmentation model from any pair of backbone and decoder.

    Args:
        backbone: Any name of `swath.core.backbones.build_backbone`: ``"vit_b"``, ``"rvsa_b"``, ...,
            or any timm model.
        decoder: ``"light"`` or ``"upernet"``.
        num_classes: K.
        in_channels: Bands of the image.
        pretrained: Lets timm fetch its weights (needs a network); False starts from scratch.
        weights: File with weights of the backbone, in its own key layout.
        img_size: Side in px that the position embedding of a ViT is made for; any other works too.
        width: Channels of the decoder; default 64 (light) or 256 (UPerNet).
        norm: ``"bn"`` or ``"gn"`` in the decoder.
        dropout: Before the classifier.
        checkpointing: Recompute activations in the backward pass, where the backbone can.

    Raises:
        ConfigError: If the backbone's or decoder's name is unknown.
        CheckpointError: If ``weights`` doesn't fit the backbone.
    """
    from swath.core.errors import ConfigError, suggest

    decoders: dict[str, tuple[type[LightDecoder] | type[UPerNet], int]] = {
        "light": (LightDecoder, 64),
        "upernet": (UPerNet, 256),
    }
    if decoder not in decoders:
        raise ConfigError(f"unknown decoder '{decoder}'{suggest(decoder, list(decoders))}")
    features = build_backbone(
        backbone,
        in_channels=in_channels,
        pretrained=pretrained,
        weights=weights,
        img_size=img_size,
        checkpointing=checkpointing,
    )
    make, default_width = decoders[decoder]
    head = make(_ints(features.channels), width or default_width, norm=norm)
    return SegmentationModel(features, head, num_classes, dropout)


def s4p_segmenter(
    size: Literal["b", "l", "h"] = "b",
    num_classes: int = 16,
    img_size: int = 512,
    checkpointing: bool = False,
    crop_padding: bool = True,
    weights: str | Path | None = None,
) -> SegmentationModel:
    """The segmentation model that S4P pre-trains: plain ViT, UPerNet (256), one head.

    Args:
        size: ``"b"``, ``"l"`` or ``"h"``; with 5 classes 103,155,462, 327,424,518 and 663,380,230
            parameters, the frozen dead ones (``cls_token``, ``conv_seg``) included.
        num_classes: 16 in pre-training (iSAID with background).
        img_size: Side the position embedding is made for: 512 in every released file.
        checkpointing: Recompute activations in the backward pass.
        crop_padding: See `SegmentationModel`; sizes that are multiples of 16 don't care.
        weights: File, or where to fetch it: the whole model in the official layout or ours, loaded
            strictly; or a ViT alone, S4P's or MAE's, whose decoder is then left as initialised.

    Raises:
        CheckpointError: If ``weights`` fits neither.

    Source:
        S5 dossier a.1, a.4; parameter table of the official README.
    """
    backbone = vit(size, img_size=img_size, checkpointing=checkpointing)
    decoder = UPerNet(backbone.channels, dead_classifier=True)
    model = SegmentationModel(
        backbone, decoder, num_classes, align_corners=True, crop_padding=crop_padding
    )
    if weights is not None:
        state = remap_official_keys(load_file(locate(weights)))
        if any(key.startswith("classifier.") for key in state):
            load_strict(model, state, where=str(weights))
        else:
            load_vit(backbone, state, where=str(weights))
    return model


_OFFICIAL_PREFIXES = {
    "encoder.": "backbone.",
    "semsegdecoder.decode_head.": "decoder.",
    "semseghead.1.": "classifier.",
}


def remap_official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of an official S4P segmentation checkpoint to those of our model.

    Args:
        state: Keys ``encoder.*``, ``semsegdecoder.decode_head.*``, ``semseghead.1.*``, with or
            without a leading ``module.``; keys that fit none are left for strict loading to report.
    """
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        for official, ours in _OFFICIAL_PREFIXES.items():
            if key.startswith(official):
                key = ours + key.removeprefix(official)
                break
        renamed[key] = value
    return renamed


def official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse of `remap_official_keys`: our keys in the official layout, for export."""
    renamed = {}
    for key, value in state.items():
        for official, ours in _OFFICIAL_PREFIXES.items():
            if key.startswith(ours):
                key = official + key.removeprefix(ours)
                break
        renamed[key] = value
    return renamed


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an int, got {value!r}")
    return value


def _ints(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list):
        raise TypeError(f"expected a tuple of ints, got {values!r}")
    return tuple(_int(v) for v in values)
