"""Exponential moving average of a model's weights."""

from copy import deepcopy

import torch
from torch import nn


class ExponentialMovingAverage:
    """A copy of a model whose weights follow the model's slowly.

    After step t (from 1) every floating-point weight and buffer moves by ``1 - d`` towards the
    model's, with ``d = min(decay, (1 + t) / (10 + t))``, so that short runs aren't held back by
    their random start; other buffers are copied.

    Args:
        model: What is followed; the copy starts equal to it.
        decay: In (0, 1).

    Source:
        Own; the ramp of the decay is that of TensorFlow's ``ExponentialMovingAverage`` with
        ``num_updates``. Buffers are averaged too, since batch-norm statistics belong to the weights
        they were measured with.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow the model after its ``step``-th step."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averaged, followed = [], []
        for mine, theirs in zip(
            self.model.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if mine.is_floating_point():
                averaged.append(mine)
                followed.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, followed, weight)
