"""Checks of arguments that several operators share; every message names the argument."""

import math
import warnings

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
FEATURE_DTYPES = (torch.float32, torch.float64, *HALF)


def check_boxes(boxes: Tensor, name: str, *, size: int = 5) -> None:
    """Refuse what isn't ``(..., size)`` floating-point boxes; warn about angles in degrees.

    Args:
        boxes: The tensor to look at; its last column is an angle in radians.
        name: What the caller's signature calls it.
        size: Length of the last dimension: 5 for boxes, 6 for rois with a batch index.

    Raises:
        ValueError: If the shape doesn't fit.
        TypeError: If the dtype isn't a floating one.

    Warns:
        UserWarning: If an angle exceeds 4 pi, which radians seldom do and degrees nearly always.
            Only on the CPU and in eager mode: elsewhere the look would stall the device.
    """
    if boxes.ndim == 0 or boxes.shape[-1] != size:
        raise ValueError(f"{name} must have shape (..., {size}); got {tuple(boxes.shape)}")
    check_floating(boxes, name)
    if boxes.device.type != "cpu" or torch.compiler.is_compiling() or boxes.numel() == 0:
        return
    theta = boxes.detach()[..., -1].abs()
    if bool(((theta > 4 * math.pi) & theta.isfinite()).any()):
        warnings.warn(
            f"{name} has angles beyond 4 pi; they are taken as radians. "
            "Degrees want swath.kernels.convert_boxes or torch.deg2rad first",
            stacklevel=3,
        )


def check_floating(tensor: Tensor, name: str) -> None:
    """Refuse a tensor that isn't float32, float64, float16 or bfloat16."""
    if tensor.dtype not in FEATURE_DTYPES:
        raise TypeError(
            f"{name} must be float32, float64, float16 or bfloat16; got {tensor.dtype} "
            f"of shape {tuple(tensor.shape)}"
        )


def check_same_device(**tensors: Tensor) -> None:
    """Refuse tensors on different devices."""
    devices = {name: tensor.device for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        listing = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"all tensors must be on one device; got {listing}")
