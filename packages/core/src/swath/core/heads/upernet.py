"""UPerNet: pyramid pooling on the coarsest map, then a top-down feature pyramid.

Paper: Unified Perceptual Parsing for Scene Understanding, Xiao et al. 2018, arXiv:1807.10221.
Official: mmsegmentation `decode_heads/uper_head.py` as S5 uses it (Apache-2.0); parameter names are
those of its checkpoints.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["bn", "gn"]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that also trains on one value per channel.

    The pooled 1 x 1 map of a batch of one has no variance; torch refuses it. There, and only there,
    the running statistics normalise and stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class ConvModule(nn.Sequential):
    """Convolution without bias, normalisation, ReLU; the size stays.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel: Side of the kernel, odd.
        norm: ``"bn"`` batch norm, ``"gn"`` group norm (independent of the batch).
        groups: Groups of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        norm: Norm = "bn",
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = BatchNorm(out_channels) if norm == "bn" else group_norm(out_channels)
        self.activate = nn.ReLU(inplace=True)


class UPerNet(nn.Module):
    """Decode a pyramid of any number of levels into one map at its finest stride.

    Args:
        channels: Channels of each level, finest first.
        width: Channels inside and of the result.
        pool_scales: Sides of the pooled grids on the coarsest level.
        norm: ``"bn"`` or ``"gn"``; batch norm accepts a batch of one (see `BatchNorm`).
        dead_classifier: Adds the unused one-class ``conv_seg`` that official S5 checkpoints carry,
            so that their keys and parameter counts match. It is frozen and never used.

    Attributes:
        out_channels: ``width``.

    Source:
        Section 3.1 of the paper; S5 dossier a.4. Bilinear resizing inside has
        align_corners=False, as officially.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: Norm = "bn",
        dead_classifier: bool = False,
    ) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.out_channels = width
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(s), ConvModule(coarsest, width, 1, norm))
            for s in pool_scales
        )
        self.bottleneck = ConvModule(coarsest + len(pool_scales) * width, width, 3, norm)
        self.lateral_convs = nn.ModuleList(ConvModule(c, width, 1, norm) for c in finer)
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3, norm) for _ in finer)
        self.fpn_bottleneck = ConvModule(len(channels) * width, width, 3, norm)
        if dead_classifier:
            self.conv_seg = nn.Conv2d(width, 1, 1).requires_grad_(False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decode maps ``(B, C_i, H_i, W_i)``, finest first, into ``(B, width, H_0, W_0)``."""
        *finer, coarsest = features
        pooled = [resize_to(pool(coarsest), coarsest) for pool in self.psp_modules]
        levels = [conv(x) for conv, x in zip(self.lateral_convs, finer, strict=True)]
        levels.append(self.bottleneck(torch.cat([coarsest, *pooled], 1)))
        for i in range(len(levels) - 1, 0, -1):  # top-down
            levels[i - 1] = levels[i - 1] + resize_to(levels[i], levels[i - 1])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, levels[:-1], strict=True)]
        outputs.append(levels[-1])
        fused: Tensor = self.fpn_bottleneck(
            torch.cat([outputs[0], *(resize_to(x, outputs[0]) for x in outputs[1:])], 1)
        )
        return fused


def resize_to(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize (align_corners=False) of ``x`` to the height and width of ``like``."""
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with up to 32 equal groups of at least four channels (or one group)."""
    fitting = (g for g in (32, 16, 8, 4, 2) if channels % g == 0 and channels >= 4 * g)
    groups = next(fitting, 1)
    return nn.GroupNorm(groups, channels)
