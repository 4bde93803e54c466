"""Pieces that configs are put together from: optimisers with their learning-rate schedules.

A config calls `adamw_cosine`, `adamw_steps`, `muon_cosine` or `sgd_poly` and gets a `Spec`, so that
every number in it can be overridden (``--set optimizer.lr=1e-4``) and is saved with the run.
"""

import bisect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swath.core.engine.muon import Muon, muon_groups
from swath.core.errors import ConfigError
from swath.core.spec import Spec


@dataclass(frozen=True)
class Optimisation:
    """An optimiser and how its learning rates change.

    Attributes:
        optimizer: With each group's highest learning rate in ``"lr"``.
        factor: Multiplies every group's rate, by the number of steps already made. It has no state,
            so that a run which resumes needs to know its step only.
    """

    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float]


def adamw_cosine(
    lr: float,
    weight_decay: float = 0.05,
    warmup: int = 0,
    no_decay_norms: bool = True,
    layer_decay: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    final_factor: float = 0.0,
) -> Spec:
    """AdamW with linear warm-up and cosine decay; for the arguments see `AdamWCosine`."""
    return Spec(
        AdamWCosine,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        no_decay_norms=no_decay_norms,
        layer_decay=layer_decay,
        betas=betas,
        final_factor=final_factor,
    )


def adamw_steps(
    lr: float,
    milestones: Sequence[float],
    weight_decay: float = 0.05,
    warmup: int = 0,
    no_decay_norms: bool = True,
    gamma: float = 0.1,
) -> Spec:
    """AdamW whose rate falls in steps; for the arguments see `AdamWSteps`."""
    return Spec(
        AdamWSteps,
        lr=lr,
        milestones=list(milestones),
        weight_decay=weight_decay,
        warmup=warmup,
        no_decay_norms=no_decay_norms,
        gamma=gamma,
    )


def muon_cosine(
    lr: float,
    weight_decay: float = 0.05,
    warmup: int = 0,
    no_decay_norms: bool = True,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.95,
    final_factor: float = 0.0,
) -> Spec:
    """Muon with linear warm-up and cosine decay; for the arguments see `MuonCosine`."""
    return Spec(
        MuonCosine,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        no_decay_norms=no_decay_norms,
        betas=betas,
        momentum=momentum,
        final_factor=final_factor,
    )


def sgd_poly(
    lr: float,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    power: float = 0.9,
    warmup: int = 0,
    no_decay_norms: bool = False,
) -> Spec:
    """SGD with momentum and polynomial decay; for the arguments see `SGDPoly`."""
    return Spec(
        SGDPoly,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        power=power,
        warmup=warmup,
        no_decay_norms=no_decay_norms,
    )


@dataclass(frozen=True)
class AdamWCosine:
    """AdamW with linear warm-up and cosine decay.

    Args:
        lr: Highest learning rate.
        weight_decay: Decoupled weight decay.
        warmup: Steps over which the rate rises linearly from ``lr / warmup``; at most half the run.
        no_decay_norms: Leaves vectors (biases, norms) and position embeddings undecayed.
        layer_decay: If given, the rate of a backbone's block is the next block's times this; the
            embedding's is the first block's times this; everything after the blocks has ``lr``.
        betas: Decay of the gradient's two moments.
        final_factor: The last step's rate as a fraction of ``lr``.

    Source:
        Loshchilov and Hutter 2019 (AdamW) and 2017 (cosine); layer decay as in Bao et al. 2022
        (BEiT), appendix: depth of the embedding is 0, of block i it is i + 1.
    """

    lr: float
    weight_decay: float = 0.05
    warmup: int = 0
    no_decay_norms: bool = True
    layer_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.weight_decay, self.warmup)
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay={self.layer_decay} must be in (0, 1]")

    def __call__(self, model: nn.Module, iterations: int) -> Optimisation:
        """The optimiser of a model's trainable parameters for a run of so many steps."""
        groups = _groups(model, self.lr, self.weight_decay, self.no_decay_norms, self.layer_decay)
        beta1, beta2 = self.betas
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(beta1, beta2), fused=True)
        cosine = _cosine(self.final_factor)
        return Optimisation(optimizer, _with_warmup(cosine, self.warmup, iterations))


@dataclass(frozen=True)
class MuonCosine:
    """Muon with linear warm-up and cosine decay: networks from scratch learn more from each step.

    Which parameters are moved by Muon and which by AdamW: see `muon_groups`.

    Args:
        lr: Highest learning rate of both, a good one of AdamW's.
        weight_decay: Decoupled weight decay.
        warmup: Steps over which the rate rises linearly from ``lr / warmup``; at most half the run.
        no_decay_norms: Leaves vectors (biases, norms) and position embeddings undecayed.
        betas: See `Muon`.
        momentum: See `Muon`.
        final_factor: The last step's rate as a fraction of ``lr``.

    Source:
        Jordan et al. 2024 (Muon); see `swath.core.engine.muon`.
    """

    lr: float
    weight_decay: float = 0.05
    warmup: int = 0
    no_decay_norms: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.95
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.weight_decay, self.warmup)

    def __call__(self, model: nn.Module, iterations: int) -> Optimisation:
        """The optimiser of a model's trainable parameters for a run of so many steps.

        Raises:
            ConfigError: If the parameters are spread over processes.
        """
        groups = _groups(model, self.lr, self.weight_decay, self.no_decay_norms, None)
        beta1, beta2 = self.betas
        optimizer = Muon(muon_groups(model, groups), (beta1, beta2), self.momentum)
        cosine = _cosine(self.final_factor)
        return Optimisation(optimizer, _with_warmup(cosine, self.warmup, iterations))


@dataclass(frozen=True)
class AdamWSteps:
    """AdamW with linear warm-up and a rate that falls in steps, as detectors are trained.

    Args:
        lr: Highest learning rate.
        milestones: Shares of the run, warm-up included, at which the rate falls.
        weight_decay: Decoupled weight decay.
        warmup: Steps over which the rate rises linearly from ``lr / warmup``; at most half the run.
        no_decay_norms: Leaves vectors (biases, norms) and position embeddings undecayed.
        gamma: Factor of each fall.

    Source:
        He et al. 2017 (Mask R-CNN), section 3.1; mmdetection's ``1x`` schedule falls after epochs
        8 and 11 of 12.
    """

    lr: float
    milestones: Sequence[float]
    weight_decay: float = 0.05
    warmup: int = 0
    no_decay_norms: bool = True
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.weight_decay, self.warmup)
        if not all(0 < m < 1 for m in self.milestones):
            raise ConfigError(
                f"optimizer.milestones={list(self.milestones)} must be shares of the run, in (0, 1)"
            )

    def __call__(self, model: nn.Module, iterations: int) -> Optimisation:
        """The optimiser of a model's trainable parameters for a run of so many steps."""
        groups = _groups(model, self.lr, self.weight_decay, self.no_decay_norms, None)
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=True)
        falls = [round(m * iterations) for m in self.milestones]
        warmup = min(self.warmup, iterations // 2)

        def factor(step: int) -> float:
            rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
            return float(rise * self.gamma ** sum(step >= fall for fall in falls))

        return Optimisation(optimizer, factor)


@dataclass(frozen=True)
class SGDPoly:
    """SGD with momentum, its rate falling as ``(1 - done) ** power``.

    Args:
        lr: Highest learning rate.
        weight_decay: L2 penalty, as torch's SGD has it.
        momentum: Of the gradient.
        power: Exponent of the decay.
        warmup: Steps over which the rate rises linearly from ``lr / warmup``; at most half the run.
        no_decay_norms: Leaves vectors (biases, norms) and position embeddings undecayed.

    Source:
        Chen et al. 2018 (DeepLab v3), section 4: the "poly" policy with power 0.9.
    """

    lr: float
    weight_decay: float = 1e-4
    momentum: float = 0.9
    power: float = 0.9
    warmup: int = 0
    no_decay_norms: bool = False

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.weight_decay, self.warmup)

    def __call__(self, model: nn.Module, iterations: int) -> Optimisation:
        """The optimiser of a model's trainable parameters for a run of so many steps."""
        groups = _groups(model, self.lr, self.weight_decay, self.no_decay_norms, None)
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)

        def poly(done: float) -> float:
            return float((1 - done) ** self.power)

        return Optimisation(optimizer, _with_warmup(poly, self.warmup, iterations))


def _check_rates(lr: float, weight_decay: float, warmup: int) -> None:
    if lr <= 0:
        raise ConfigError(f"optimizer.lr={lr} must be above 0")
    if weight_decay < 0 or warmup < 0:
        raise ConfigError(
            f"optimizer.weight_decay={weight_decay} and optimizer.warmup={warmup} must be 0 or more"
        )


def _cosine(final_factor: float) -> Callable[[float], float]:
    """The factor at a fraction of the run, falling from 1 to ``final_factor``."""

    def factor(done: float) -> float:
        wave = 0.5 * (1 + math.cos(math.pi * done))
        return final_factor + (1 - final_factor) * wave

    return factor


def _with_warmup(
    decay: Callable[[float], float], warmup: int, iterations: int
) -> Callable[[int], float]:
    """The factor of each step: linear up to 1, then ``decay`` of the fraction done."""
    warmup = min(warmup, iterations // 2)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return decay(min((step - warmup) / max(iterations - warmup, 1), 1.0))

    return factor


_UNDECAYED = re.compile(
    r"(pos_embed|position_embedding|cls_token|register_tokens|rel_pos|relative_position_bias)"
)
# what ends a stage, a block in one, or a block by itself: layers.0.downsample and layers.0.blocks.1
# of a Swin, where timm's feature wrappers write layers_0, and layers.3 of a ViT
_BLOCK = re.compile(
    r"(?:^|\.)(?:(?:layers|stages)[._](?P<end>\d+)\.downsample|(?:(?:layers|stages)[._]"
    r"(?P<stage>\d+)\.blocks|blocks|layers)\.(?P<block>\d+))\."
)
_EMBEDDING = re.compile(r"(?:^|\.)(patch_embed|pos_embed|cls_token|register_tokens)")


def _groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    no_decay_norms: bool,
    layer_decay: float | None,
) -> list[dict[str, Any]]:
    """Parameter groups of equal rate and decay, in the order in which they first occur."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise ConfigError("the model has no trainable parameters; nothing can be optimised")
    rates = dict(_rate_factors([name for name, _ in named], layer_decay))
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        exempt = no_decay_norms and (parameter.ndim <= 1 or _UNDECAYED.search(name) is not None)
        key = lr * rates[name], 0.0 if exempt else weight_decay
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1]})
        group["params"].append(parameter)
    return list(groups.values())


def _rate_factors(names: list[str], layer_decay: float | None) -> Iterator[tuple[str, float]]:
    trunk = [name for name in names if "backbone." in name] or names  # a head may have blocks too
    places = {name: _place(found) for name in trunk if (found := _BLOCK.search(name))}
    blocks = sorted({place for place in places.values() if place[1] < math.inf})
    if layer_decay is not None and not blocks:
        raise ConfigError("layer_decay is for models with numbered blocks; set it to None")
    last = len(blocks) + 1
    for name in names:
        outside = 0 if _EMBEDDING.search(name) else last
        depth = bisect.bisect(blocks, places[name]) if name in places else outside
        yield name, (layer_decay or 1.0) ** (last - depth)


def _place(found: re.Match[str]) -> tuple[int, float]:
    """Stage and block; what ends a stage comes after all of its blocks, and counts as the last."""
    if found["end"] is not None:
        return int(found["end"]), math.inf
    return int(found["stage"] or 0), int(found["block"])
