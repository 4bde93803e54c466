"""Adaptive rotated convolution: 3 x 3 kernels that turn with what they see.

Papers: Pu et al. 2023, arXiv:2303.07820 (the convolution); RMSIN, Liu et al. 2024,
arXiv:2312.12470 (its use in a referring decoder). Official code:
https://github.com/1e12Leon/RemoteSAM and https://github.com/Lsan2401/RMSIN. Parameter names are
those of their checkpoints, the misspelling ``rounting_func`` among them.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 3
"""Side of the kernels; officially no other works either."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``."""
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x


class Routing(nn.Module):
    """Says how strongly each kernel counts and how far it turns, from the image's features.

    Args:
        channels: C of the features.
        kernel_number: Kernels n.
        dropout: Before either prediction.
        max_angle: Largest turn in degrees.
    """

    def __init__(
        self, channels: int, kernel_number: int, dropout: float = 0.2, max_angle: float = 40.0
    ) -> None:
        super().__init__()
        self.max_angle = math.radians(max_angle)
        self.dwc = nn.Conv2d(channels, channels, KERNEL, padding=1, groups=channels, bias=False)
        self.norm = ChannelNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.fc_alpha = nn.Linear(channels, kernel_number)
        self.fc_theta = nn.Linear(channels, kernel_number, bias=False)
        for layer in (self.dwc, self.fc_alpha, self.fc_theta):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.fc_alpha.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights in 0..1 and angles in radians, ``(B, n)`` each, from ``(B, C, H, W)``."""
        pooled = self.pooled(x)
        alphas = self.fc_alpha(self.dropout(pooled)).sigmoid()
        angles = F.softsign(self.fc_theta(self.dropout(pooled))) * self.max_angle
        return alphas, angles

    def pooled(self, x: Tensor) -> Tensor:
        """What both predictions look at: ``(B, C)``."""
        return F.relu(self.norm(self.dwc(x))).mean((2, 3))


class AdaptiveRotatedConv2d(nn.Module):
    """Convolution whose kernels are weighted and rotated for each sample.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_number: Kernels n that are summed; 1 in RemoteSAM.
        stride: As in `nn.Conv2d`, like the three that follow.
        padding: Zeros around the map.
        dilation: Step between kernel elements.
        groups: Channel groups.

    Source:
        Dossier 1.5; Pu et al. sections 3.2 and 3.3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_number: int = 1,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = nn.Parameter(
            torch.empty(kernel_number, out_channels, in_channels // groups, KERNEL, KERNEL)
        )
        self.rounting_func = Routing(in_channels, kernel_number)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, in_channels, H, W)``, each sample with its own kernel."""
        batch = x.shape[0]
        joined = F.conv2d(
            x.flatten(0, 1)[None],
            self.kernels(x).flatten(0, 1),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=batch * self.groups,
        )
        x = joined[0].unflatten(0, (batch, -1))
        return x

    def kernels(self, x: Tensor) -> Tensor:
        """The kernel of each sample of a map, as `rotated_weight`."""
        return self.rotated_weight(*self.rounting_func(x))

    def rotated_weight(self, alphas: Tensor, angles: Tensor) -> Tensor:
        """Each sample's kernel, ``(B, out_channels, in_channels / groups, 3, 3)``.

        Args:
            alphas: Weight of each kernel, ``(B, n)``.
            angles: Its turn in radians, ``(B, n)``.
        """
        turn = rotation_matrix(angles) * alphas[..., None, None]  # (B, n, 9, 9)
        weight: Tensor = torch.einsum(
            "bnpq,noiq->boip", turn.to(self.weight.dtype), self.weight.flatten(3)
        )
        return weight.view(*weight.shape[:-1], KERNEL, KERNEL)


def rotation_matrix(angles: Tensor) -> Tensor:
    """What turns flattened 3 x 3 kernels, as matrices.

    Element p of the turned kernel, at (x right, y down), is the old one sampled at
    (x cos t - y sin t, x sin t + y cos t), bilinearly, with coordinates clamped to the kernel.

    Args:
        angles: Radians, any shape ``(...)``.

    Returns:
        ``(..., 9, 9)``; a kernel flattened row by row is multiplied from the left.

    Source:
        Dossier 1.5. The official code spells the same out for positive and negative angles, which
        holds up to 45 degrees.
    """
    steps = torch.arange(-1, 2, device=angles.device, dtype=angles.dtype)
    y, x = steps.repeat_interleave(KERNEL), steps.repeat(KERNEL)
    cos, sin = angles.cos()[..., None], angles.sin()[..., None]
    source_x = (x * cos - y * sin).clamp(-1, 1)[..., None]  # (..., 9, 1)
    source_y = (x * sin + y * cos).clamp(-1, 1)[..., None]
    return F.relu(1 - (source_x - x).abs()) * F.relu(1 - (source_y - y).abs())
