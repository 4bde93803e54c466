"""Any timm model as a feature pyramid: convolutional, hierarchical or plain transformer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.checkpoint.fetch import locate
from swath.core.checkpoint.official import load_strict
from swath.core.checkpoint.safe import load_file
from swath.core.errors import ConfigError, suggest

FINEST_STRIDE = 4
"""Maps finer than this are left out by default: they cost much and decide little."""


class TimmPyramid(nn.Module):
    """Feature maps of a timm model, finest first; any image size (a few timm models fix it).

    Models that give maps at several strides give those at strides 4 to 32. Plain transformers give
    four blocks' maps at one stride, which are resized to a quarter, half, once and twice the patch
    (bilinear up, max-pool down), so that any decoder fits.

    Args:
        name: Model name as timm spells it, e.g. ``"resnet18"``, ``"convnext_tiny"``,
            ``"swin_tiny_patch4_window7_224"``, ``"vit_small_patch16_224"``.
        in_channels: Bands; timm adapts pretrained weights to any number.
        pretrained: Lets timm fetch its weights (needs a network).
        weights: File with timm's weights of this model, classifier or not; opened without
            executing code.
        img_size: Side in px that position embeddings and windows are made for; others work too.
        out_indices: Which of timm's maps to use; default: see above.
        checkpointing: Recompute activations in the backward pass, where timm's model can.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map, rounded down where a patch of 14 px is quartered.
        pad_to: The largest stride; `SegmentationModel` pads images to its multiple.

    Raises:
        ConfigError: If timm has no such model, or it gives no feature maps.
        CheckpointError: If ``weights`` doesn't fit.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        pretrained: bool = False,
        weights: str | Path | None = None,
        img_size: int = 512,
        out_indices: Sequence[int] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise ConfigError(
                f"timm has no model '{name}'{suggest(name, timm.list_models())[:300]}"
            )
        self.name = name
        self.body = _create(name, in_channels, pretrained, img_size, out_indices)
        info = self.body.feature_info
        strides, channels = info.reduction(), info.channels()
        self.plain = len(set(strides)) == 1 and len(strides) > 1
        self.channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        if self.plain:  # a quarter, half, once and twice the patch
            strides = [int(stride * 2.0 ** (i - 2)) for i, stride in enumerate(strides)]
        self.strides = tuple(strides)
        self.channels = tuple(channels)
        self.pad_to = max(self.strides)
        if checkpointing and hasattr(self.body, "set_grad_checkpointing"):
            self.body.set_grad_checkpointing(True)
        if weights is not None:
            self._load(locate(weights))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps ``(B, C_i, H / stride_i, W / stride_i)`` of an image whose sides fit ``pad_to``."""
        try:
            maps: list[Tensor] = self.body(image)
        except AssertionError as error:  # how timm's models of fixed size refuse an image
            raise ConfigError(
                f"timm's '{self.name}' doesn't take {image.shape[-2]} x {image.shape[-1]} px "
                f"({error}); set img_size to that, or choose a backbone that takes any size"
            ) from error
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2).contiguous() for x in maps]
        if self.plain:
            maps = [_rescale(x, 2 - i) for i, x in enumerate(maps)]
        return maps

    def _load(self, path: Path) -> None:
        """Load timm's own keys; a classifier and norms that a pyramid lacks are left out."""
        state = load_file(path)
        ours: dict[str, str] = {}
        for key in self.body.state_dict():
            # timm's feature wrappers put "model." in front or write "stages_0" for "stages.0"
            spellings = (key, key.removeprefix("model."), key.replace("_", ".", 1))
            ours |= {spelling: key for spelling in spellings if spelling in state}
        chosen = {ours[name]: value for name, value in state.items() if name in ours}
        load_strict(self.body, chosen, where=str(path))


def _create(
    name: str,
    in_channels: int,
    pretrained: bool,
    img_size: int,
    out_indices: Sequence[int] | None,
) -> Any:
    """Timm's feature extractor with whatever makes this model accept any size."""
    options: list[dict[str, Any]] = [
        # before "dynamic", which the Swins of timm below 1.0.31 swallow without minding it
        {"img_size": img_size, "strict_img_size": False},
        {"img_size": img_size, "dynamic_img_size": True},
        {"img_size": img_size},
        {},
    ]
    error: Exception | None = None
    for extra in options:
        try:
            probe = timm.create_model(
                name, pretrained=False, features_only=True, in_chans=in_channels, **extra
            )
        except TypeError as unknown_argument:
            error = unknown_argument
            continue
        except (RuntimeError, AttributeError) as no_features:
            raise ConfigError(
                f"timm's '{name}' gives no feature maps ({no_features}); choose another backbone"
            ) from no_features
        indices = out_indices if out_indices is not None else _indices(probe)
        return timm.create_model(
            name,
            pretrained=pretrained,
            features_only=True,
            in_chans=in_channels,
            out_indices=tuple(indices),
            **extra,
        )
    raise ConfigError(f"timm's '{name}' can't be built as a pyramid: {error}")


def _indices(probe: Any) -> list[int]:
    """Maps to take: strides from 4 on, or four evenly spread blocks of a plain transformer."""
    strides = probe.feature_info.reduction()
    if len(set(strides)) == 1:
        depth = len(getattr(probe.model, "blocks", strides))
        return [round(depth * (i + 1) / 4) - 1 for i in range(4)]
    return [i for i, stride in enumerate(strides) if stride >= FINEST_STRIDE]


def _rescale(x: Tensor, octaves: int) -> Tensor:
    if octaves < 0:
        return F.max_pool2d(x, 2**-octaves)
    if octaves == 0:
        return x
    return F.interpolate(x, scale_factor=2.0**octaves, mode="bilinear", align_corners=False)
