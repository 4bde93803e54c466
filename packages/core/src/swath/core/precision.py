"""The arithmetic of a forward pass: autocast, and what stays in float32 under it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")

Precision = Literal["fp32", "bf16", "fp16"]
"""As the weights are, or autocast to the others."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which a forward pass runs."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def in_float32(method: Callable[..., Result]) -> Callable[..., Result]:
    """A method of a module, in float32 under autocast too: where rounding would be amplified.

    Args:
        method: Of tensors, sequences of these, or None.
    """

    @wraps(method)
    def exact(self: nn.Module, *inputs: Any) -> Result:
        device = next(self.parameters()).device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return method(self, *inputs)
        with torch.autocast(device, enabled=False):
            return method(self, *(_in_float32(x) for x in inputs))

    return exact


def _in_float32(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.float()
    return None if x is None else [_in_float32(one) for one in x]
