"""Models that a checkpoint is about to fill: built without drawing random weights first.

Drawing them takes longer than all else of loading: seconds for a hundred million parameters.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model")


class _WithoutMemory(TorchFunctionMode):
    """Makes the weights of layers on the meta device, where nothing is stored or drawn.

    It knows them by a ``device=None`` that they hand to `torch.empty`, as torch's and timm's layers
    do and large ones of ours. Constants are made without, and get memory. Other threads' layers
    are left alone.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty and options.get("device", "cpu") is None:
            options["device"] = "meta"
        return func(*args, **options)


def build_unfilled(build: Callable[[], Model]) -> Model:
    """What ``build`` makes, with memory of arbitrary content for the weights of its layers.

    Only for models that are loaded strictly right away. The generator of random numbers stays as it
    was.
    """
    with torch.random.fork_rng(devices=[]), _WithoutMemory():
        model = build()
    if isinstance(model, nn.Module):
        for tensor in chain(model.parameters(), model.buffers()):
            if tensor.is_meta:
                torch.utils.swap_tensors(tensor, _allocated(tensor))
    return model


def _allocated(tensor: torch.Tensor) -> torch.Tensor:
    memory = torch.empty_like(tensor, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(memory, tensor.requires_grad)
    return memory
