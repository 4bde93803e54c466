"""Muon: steps along orthogonal matrices.

torch's and timm's Muon iterate in bfloat16 whatever the processor, one matrix at a time; a CPU that
doesn't compute in bfloat16 takes twenty times as long for a small network's step as with this one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swath.core.errors import ConfigError

_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon for the groups with ``"orthogonal"`` set, AdamW for the others.

    A matrix's step is its momentum with all singular values brought to about 1, scaled to the
    length of a typical AdamW step, so that both kinds of groups take the same rates.

    Args:
        groups: Parameter groups with ``"params"``, ``"lr"``, ``"weight_decay"`` and
            ``"orthogonal"``. Weights of convolutions are flattened to one row for each output.
        betas: Decay of the gradient's two moments in AdamW.
        momentum: Decay of the gradient's moment in Muon, with Nesterov's look ahead.

    Source:
        Jordan et al. 2024 (Muon), https://kellerjordan.github.io/posts/muon; its scale and decay:
        Liu et al. 2025, arXiv:2502.16982.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.95,
    ) -> None:
        super().__init__(groups, {"betas": betas, "momentum": momentum, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            (self._orthogonal_step if group["orthogonal"] else self._adamw_step)(group, moved)
        return loss

    def _orthogonal_step(self, group: dict[str, Any], parameters: Sequence[Tensor]) -> None:
        alike: dict[tuple[int, int], list[Tensor]] = {}
        for p in parameters:
            alike.setdefault((p.shape[0], p[0].numel()), []).append(p)
        for (rows, columns), same in alike.items():
            steps = orthogonalised(torch.stack([self._ahead(p, group["momentum"]) for p in same]))
            rate = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
            for p, step in zip(same, steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(step.view_as(p), alpha=-rate)

    def _ahead(self, p: Tensor, momentum: float) -> Tensor:
        """The gradient's moment after this step and, by Nesterov, the next, a row an output."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        moment: Tensor = state["momentum"]
        moment.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(moment, momentum).flatten(1)

    def _adamw_step(self, group: dict[str, Any], parameters: Sequence[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            made = int(state["step"])
            state["exp_avg"].lerp_(p.grad, 1 - beta1)
            state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            spread = (state["exp_avg_sq"] / (1 - beta2**made)).sqrt_().add_(1e-8)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1 - beta1**made))


def muon_groups(model: nn.Module, groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each group of a model's parameters as two: matrices that Muon moves, and the rest for AdamW.

    Matrices are the weights of linear layers and convolutions, but for those with fewer than four
    inputs or outputs; the rest are biases, norms, embeddings, tables and kernels of other layers.

    Returns:
        Groups with ``"orthogonal"`` set or not, for `Muon`.

    Raises:
        ConfigError: If the parameters are spread over processes.
    """
    matrices = set(_matrices(model))
    halves = []
    for group in groups:
        for orthogonal in (True, False):
            chosen = [p for p in group["params"] if (p in matrices) is orthogonal]
            if chosen:
                halves.append({**group, "params": chosen, "orthogonal": orthogonal})
    return halves


def _matrices(model: nn.Module) -> Iterator[Tensor]:
    """Weights of linear layers and convolutions that are matrices worth the name."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            if hasattr(module.weight, "full_tensor"):
                raise ConfigError(
                    "Muon needs whole matrices; train with AdamW where fsdp splits them"
                )
            if min(len(module.weight), module.weight[0].numel()) >= 4:
                yield module.weight


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices with the same singular vectors, and all singular values within about 0.3 of 1.

    Args:
        matrices: ``(B, m, n)``, floating point.
        iterations: Of Newton and Schulz's method.

    Returns:
        ``(B, m, n)`` of the same dtype; computed in bfloat16 on a GPU, in float32 on a CPU.

    Source:
        Jordan et al. 2024 (Muon), "Newton-Schulz iteration".
    """
    first, second, third = _QUINTIC
    x: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    if x.device.type != "cpu":
        x = x.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=second, alpha=third), x, beta=first
        )
    x = x.mT if tall else x
    return x.to(matrices.dtype)
