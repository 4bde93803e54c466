"""Losses and gradients of several tasks joined into one step.

A library for this exists (torchjd), but brings quadratic-programme solvers for what is here a few
lines.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from swath.core.errors import ConfigError
from swath.mtl.data import head_of
from swath.mtl.models.rscotr import RSCoTr


def weighed_by_uncertainty(model: RSCoTr, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each head's losses times exp(-s), and s itself, its learned logarithm of a variance.

    Raises:
        ConfigError: If the model has none to learn.

    Source:
        Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses", equation 10.
    """
    if model.log_variances is None:
        raise ConfigError("task.balance='uncertainty' needs model.uncertainty=True")
    weighed = {}
    for name, loss in losses.items():
        variance = model.log_variances[head_of(name)]
        weighed[name] = loss * (-variance).exp() if loss.requires_grad else loss
    for head in {head_of(name) for name in losses}:
        weighed[f"{head}/log_variance"] = model.log_variances[head]
    return weighed


def without_conflicts(gradients: Sequence[Tensor], order: Sequence[Sequence[int]]) -> Tensor:
    """The sum of gradients, each freed from what opposes the others.

    Args:
        gradients: ``(N,)``, one of each task.
        order: For each task the others in the order in which it is freed from them.

    Source:
        Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1 (PCGrad).
    """
    total = torch.zeros_like(gradients[0])
    for own, others in zip(gradients, order, strict=True):
        freed = own.clone()
        for number in others:
            other = gradients[number]
            conflict = torch.dot(freed, other)
            if conflict < 0:
                freed -= conflict / other.square().sum() * other
        total += freed
    return total


def project_conflicts(
    losses: dict[str, Tensor], parts: Sequence[str], model: nn.Module
) -> dict[str, Tensor]:
    """Losses of the same values whose sum has the gradient of `without_conflicts`.

    Args:
        losses: By ``"<part>/<term>"``; those without gradient stay as they are.
        parts: Names of the parts.
        model: Whose weights are trained. The order of projections is drawn.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = []
    for part in parts:
        own = [x for name, x in losses.items() if name.startswith(f"{part}/") and x.requires_grad]
        found = torch.autograd.grad(
            torch.stack(own).sum(), weights, retain_graph=True, allow_unused=True
        )
        flat = [
            torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)
        ]
        gradients.append(torch.cat([g.flatten() for g in flat]))
    order = [
        [number for number in torch.randperm(len(parts)).tolist() if number != task]
        for task in range(len(parts))
    ]
    joined = without_conflicts(gradients, order)
    pieces = joined.split([w.numel() for w in weights])
    steered = torch.stack(
        [(w * g.view_as(w)).sum() for w, g in zip(weights, pieces, strict=True)]
    ).sum()
    # the terms keep their values for the log; the gradient is that of `steered` alone
    values = {name: loss.detach() for name, loss in losses.items()}
    total = torch.stack([values[n] for n, x in losses.items() if x.requires_grad]).sum()
    return values | {"pcgrad": steered - steered.detach() + total}
