"""Feature pyramid network."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """Bring maps of several strides to one width, coarse ones helping fine ones.

    Args:
        in_channels: Channels of each map, finest first.
        channels: Channels of every map that comes out.
        num_outs: Maps that come out; those beyond the incoming ones take every second pixel of the
            one before.

    Source:
        Lin et al. 2017, Feature Pyramid Networks, arXiv:1612.03144, section 3; additional levels as
        in section 4.1. Nearest upsampling, biases, no norm: mmdetection's and S5's configuration.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256, num_outs: int = 5) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.fpn_convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        self.num_outs = num_outs
        for conv in (*self.lateral_convs, *self.fpn_convs):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``(B, channels, h_i, w_i)``, finest first, of maps ``(B, C_i, h_i, w_i)``."""
        x = [conv(y) for conv, y in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(x) - 1, 0, -1):
            x[i - 1] = x[i - 1] + F.interpolate(x[i], x[i - 1].shape[-2:], mode="nearest")
        x = [conv(y) for conv, y in zip(self.fpn_convs, x, strict=True)]
        while len(x) < self.num_outs:
            x.append(x[-1][..., ::2, ::2])
        return x
