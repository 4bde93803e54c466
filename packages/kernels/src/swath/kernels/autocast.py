"""What feature operators do under `torch.autocast`: the same as torch's own matrix products."""

import contextlib
from typing import TypeVar

import torch
from torch import Tensor

MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)


def autocast_inputs(device: torch.device, *tensors: MaybeTensor) -> list[MaybeTensor]:
    """Cast to the autocast dtype where autocast is on; float64 and None stay as they are."""
    if not torch.is_autocast_enabled(device.type):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device.type)
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Switch autocast off for the inside of an operator, which chose its dtypes already."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
