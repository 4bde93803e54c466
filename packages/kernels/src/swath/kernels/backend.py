"""Which implementation of an operator runs.

==============  ==================================================================================
back end        what it is
==============  ==================================================================================
``reference``   plain torch, any device, float64 too: the specification the others are tested by
``cpu``         CPU tensors: numba where loops are needed, torch's own kernels where they suffice
``triton``      CUDA tensors; CPU tensors only in Triton's interpreter (``TRITON_INTERPRET=1``)
==============  ==================================================================================

The device chooses: CPU tensors take ``cpu``, CUDA tensors ``triton`` (``reference`` in float64,
which the Triton kernels don't compute in), every other device ``reference``. The environment
variable ``SWATH_KERNELS`` forces one of the three, read at every call; a forced back end never
falls back, it raises.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

VARIABLE = "SWATH_KERNELS"
BACKENDS = ("reference", "cpu", "triton")


class BackendError(RuntimeError):
    """The forced back end can't run this call."""


def choose(device: torch.device, dtype: torch.dtype) -> str:
    """Name the back end for tensors of this device and dtype.

    Raises:
        BackendError: If ``SWATH_KERNELS`` names no back end, or one that can't run these tensors.
    """
    forced = os.environ.get(VARIABLE, "")
    if not forced:
        return _default(device, dtype)
    if forced not in BACKENDS:
        raise BackendError(f"{VARIABLE}={forced}: it must be one of {', '.join(BACKENDS)}")
    reason = _obstacle(forced, device, dtype)
    if reason:
        raise BackendError(f"{VARIABLE}={forced}: {reason}; unset it to let the device choose")
    return forced


def implementation(op: str, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The function ``name`` of ``swath.kernels.ops.<op>.<back end>``.

    Raises:
        BackendError: As for `choose`.
    """
    module = importlib.import_module(f"swath.kernels.ops.{op}.{choose(device, dtype)}")
    function = getattr(module, name)
    return _on(device, function) if device.type == "cuda" else function


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter; decided before triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _on(device: torch.device, function: Callable[..., Any]) -> Callable[..., Any]:
    """Launch on the tensors' GPU, which needn't be the current one."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> Any:
        with torch.cuda.device(device):
            return function(*arguments, **options)

    return guarded


def _default(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda" and dtype != torch.float64 and importlib.util.find_spec("triton"):
        return "triton"
    return "reference"


def _obstacle(forced: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a forced back end can't run; None when it can."""
    if forced == "cpu" and device.type != "cpu":
        return f"the tensors are on {device}"
    if forced != "triton":
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton isn't installed"
    if dtype == torch.float64:
        return "the Triton kernels don't compute in float64"
    if device.type != "cuda" and not interpreting():
        return f"the tensors are on {device}, which needs TRITON_INTERPRET=1"
    return None
