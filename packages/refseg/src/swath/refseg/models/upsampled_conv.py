"""A 3 x 3 convolution of an upsampled map beside a fine one, at a quarter of the cost.

Convolution and bilinear upsampling are both linear, so the channels of the coarse map can be mixed
before it is upsampled: each of the kernel's nine elements is a 1 x 1 convolution at the coarse
size, and what is left, upsampling and shifting, is the same for all channels: a small matrix along
each axis.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from swath.refseg.models.winograd import convolve_3x3


def convolve_upsampled(x: Tensor, skip: Tensor, weight: Tensor) -> Tensor:
    """What ``conv2d(cat([upsample(x), skip]), weight, padding=1)`` gives.

    Upsampling is bilinear with align_corners=True, to the size of ``skip``. Samples are worked off
    one by one: between, one takes 9 x O x h x w numbers.

    Args:
        x: Coarse map ``(B, C, h, w)``.
        skip: Fine map ``(B, S, H, W)``.
        weight: ``(O, C + S, 3, 3)``.

    Returns:
        ``(B, O, H, W)``, equal up to rounding.
    """
    channels, (height, width), outputs = x.shape[1], x.shape[-2:], weight.shape[0]
    fine = convolve_3x3(skip, weight[None, :, channels:])
    kernel = weight[:, :channels].permute(0, 2, 3, 1).reshape(9 * outputs, channels, 1, 1)
    rows = shifted_upsampling(height, skip.shape[-2]).to(x).permute(2, 0, 1).flatten(1)
    columns = shifted_upsampling(width, skip.shape[-1]).to(x).flatten(0, 1)
    for sample, target in zip(x, fine, strict=True):
        mixed = F.conv2d(sample[None], kernel).view(outputs, 3, 3, height, width)
        mixed = mixed.transpose(2, 3).reshape(-1, 3 * width)  # (O, row, h), (column, w)
        target += rows @ (mixed @ columns).view(outputs, 3 * height, -1)
    return fine


def shifted_upsampling(small: int, large: int) -> Tensor:
    """Linear upsampling along an axis, moved by -1, 0 and 1 with zeros beyond the ends.

    Returns:
        ``(3, small, large)``, float64: element i, s, l says how much of coarse place s is in fine
        place l + i - 1.
    """
    eye = torch.eye(small, dtype=torch.float64)[None]
    plain = F.interpolate(eye, size=large, mode="linear", align_corners=True)[0]
    padded = F.pad(plain, (1, 1))
    return torch.stack([padded[:, i : i + large] for i in range(3)])
