"""RSCoTr's optimiser: AdamW in steps, with the behaviour of idle heads as an option."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from swath.core.engine.pieces import Optimisation
from swath.core.errors import ConfigError

NO_DECAY = ("query_embed", "query_feat", "level_embed")
"""Parts of names of weights that aren't decayed; norms and biases are, as officially."""


@dataclass(frozen=True)
class CoTrainingAdamW:
    """AdamW whose rate falls tenfold at some steps.

    Args:
        lr: Learning rate.
        weight_decay: Decoupled weight decay, of every weight but those of ``no_decay``.
        milestones: Shares of the run, 0 to 1, after which the rate is multiplied by ``gamma``.
        gamma: See ``milestones``.
        lr_factors: Factor of the rate by the beginning of a weight's name.
        no_decay: Parts of names of weights without decay.
        idle: What happens in a step to weights that got no gradient in it, such as another task's
            head. ``"zero"``, as in the published training: once they have been trained, they go on
            by their momentum and their decay. ``"none"``: they stay as they are.

    Source:
        RSCoTr dossier 2, with [ran] on idle heads.
    """

    lr: float = 5e-5
    weight_decay: float = 1e-4
    milestones: Sequence[float] = (0.8, 0.95)
    gamma: float = 0.1
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    no_decay: Sequence[str] = NO_DECAY
    idle: Literal["zero", "none"] = "zero"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"optimizer.lr={self.lr} must be above 0, optimizer.weight_decay="
                f"{self.weight_decay} 0 or more"
            )
        if not all(0 < m <= 1 for m in self.milestones):
            raise ConfigError(f"optimizer.milestones={self.milestones} must be shares in (0, 1]")
        if self.idle not in ("zero", "none"):
            raise ConfigError(f"optimizer.idle='{self.idle}' must be 'zero' or 'none'")

    def __call__(self, model: nn.Module, iterations: int) -> Optimisation:
        """The optimiser of a model's trainable parameters for a run of so many steps."""
        optimizer = IdleAdamW(self.groups(model), lr=self.lr, idle=self.idle)
        steps = [round(m * iterations) for m in self.milestones]

        def factor(step: int) -> float:
            return float(self.gamma ** sum(step >= at for at in steps))

        return Optimisation(optimizer, factor)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Weights of equal rate and decay, in the order in which they first occur."""
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                lr, decay = self.rate(name)
                group = groups.setdefault(
                    (lr, decay), {"params": [], "lr": lr, "weight_decay": decay}
                )
                group["params"].append(parameter)
        if not groups:
            raise ConfigError("the model has no trainable parameters; nothing can be optimised")
        return list(groups.values())

    def rate(self, name: str) -> tuple[float, float]:
        """Learning rate and weight decay of a weight by its name."""
        factors = [f for start, f in self.lr_factors.items() if name.startswith(start)]
        exempt = any(part in name for part in self.no_decay)
        return self.lr * (factors[0] if factors else 1.0), 0.0 if exempt else self.weight_decay


class IdleAdamW(torch.optim.AdamW):
    """AdamW that says what becomes of weights without gradient.

    Args:
        params: Weights or groups of them.
        lr: Learning rate.
        idle: See `CoTrainingAdamW`.
    """

    def __init__(self, params: Any, lr: float, idle: str = "zero") -> None:
        super().__init__(params, lr=lr, fused=True)
        self.idle = idle

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step."""
        if self.idle == "zero":
            # weights that have a state have been trained, in this run or before it was resumed
            for group in self.param_groups:
                for weight in group["params"]:
                    if weight.grad is None and weight in self.state:
                        weight.grad = torch.zeros_like(weight)
        return super().step(closure)
