"""A light decoder: a narrow top-down pyramid, summed at the finest stride."""

from collections.abc import Sequence

from torch import Tensor, nn

from swath.core.heads.upernet import ConvModule, Norm, resize_to


class LightDecoder(nn.Module):
    """Decode a pyramid with few parameters; made for small models on small machines.

    Each level is reduced to ``width`` channels by a 1 x 1 convolution; coarser levels are upsampled
    and added to the finer ones; a depthwise 3 x 3 and a pointwise convolution smooth each sum, and
    one more of each the finest.

    Args:
        channels: Channels of each level, finest first.
        width: Channels inside and of the result.
        norm: ``"bn"`` or ``"gn"``.

    Attributes:
        out_channels: ``width``.

    Source:
        After the panoptic FPN's semantic branch (Kirillov et al. 2019, arXiv:1901.02446), with
        separable convolutions.
    """

    def __init__(self, channels: Sequence[int], width: int = 64, norm: Norm = "bn") -> None:
        super().__init__()
        self.out_channels = width
        self.laterals = nn.ModuleList(ConvModule(c, width, 1, norm) for c in channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                ConvModule(width, width, 3, norm, groups=width), ConvModule(width, width, 1, norm)
            )
            for _ in channels
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decode maps ``(B, C_i, H_i, W_i)``, finest first, into ``(B, width, H_0, W_0)``."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        x: Tensor = self.smooth[-1](levels[-1])
        for i in range(len(levels) - 2, -1, -1):
            x = self.smooth[i](levels[i] + resize_to(x, levels[i]))
        return x
