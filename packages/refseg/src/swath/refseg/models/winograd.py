"""3 x 3 convolutions with a quarter of the multiplications, for many channels on a CPU.

Winograd's algorithm turns 6 x 6 patches and kernels so that their convolution becomes 36 products
of matrices over the channels, and turns these back into 4 x 4 outputs. Between, numbers spread
over a wider range: for float32 that costs a digit or so, for narrower types too much.

Paper: Lavin and Gray 2016, arXiv:1509.09308, section 4.3, F(4 x 4, 3 x 3).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MANY = 64
"""Channels from which it is faster than the direct way."""

TILES_AT_ONCE = 448
"""Patches that are worked off together: few enough for the processor's cache."""

_PATCH = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def convolve_3x3(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each sample with a kernel of its own, zeros around; without gradients.

    Args:
        x: float32 ``(B, C, H, W)``.
        kernels: ``(B, O, C, 3, 3)``; or ``(1, O, C, 3, 3)`` for all samples.

    Returns:
        ``(B, O, H, W)``, equal up to rounding to ``conv2d`` with ``padding=1``.
    """
    kernels = kernels.expand(len(x), *kernels.shape[1:])
    if min(kernels.shape[1:3]) < MANY:
        pairs = zip(x, kernels, strict=True)
        return torch.stack([F.conv2d(sample, kernel, padding=1) for sample, kernel in pairs])
    height, width = x.shape[-2:]
    outputs = [_turned(*pair) for pair in zip(x, kernels, strict=True)]
    return torch.stack(outputs)[:, :height, :width].permute(0, 3, 1, 2)


def _turned(x: Tensor, kernel: Tensor) -> Tensor:
    """``(C, H, W)`` convolved, channels last, its sides filled up to multiples of four."""
    outputs, channels = kernel.shape[:2]
    rows, columns = (-(-side // 4) for side in x.shape[1:])
    places = x.permute(1, 2, 0)
    places = F.pad(places, (0, 0, 1, 4 * columns - x.shape[2] + 1, 1, 4 * rows - x.shape[1] + 1))
    patches = places.unfold(0, 6, 4).unfold(1, 6, 4).permute(3, 4, 0, 1, 2)  # (6, 6, r, c, C)
    turn_patch, turn_kernel, turn_back = (_both_ways(m, x) for m in (_PATCH, _KERNEL, _OUTPUT))
    weights = (turn_kernel @ kernel.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, outputs)
    result = x.new_empty(rows, 4, columns, 4, outputs)
    step = max(1, TILES_AT_ONCE // columns)
    for some, target in zip(patches.split(step, dim=2), result.split(step), strict=True):
        turned = (turn_patch @ some.reshape(36, -1)).view(36, -1, channels)
        products = torch.bmm(turned, weights).view(36, -1)
        target.copy_((turn_back @ products).view(4, 4, -1, columns, outputs).permute(2, 0, 3, 1, 4))
    return result.view(4 * rows, 4 * columns, outputs)


def _both_ways(matrix: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """What turns a flattened square along both of its axes."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).to(like)
