"""How the open-vocabulary models are trained: CLIP a hundred times slower than the rest.

Official code: `train_net.py` of https://github.com/yecy749/GSNet, the same in CAT-Seg and RSKT-Seg.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swath.core.engine.muon import Muon, muon_groups
from swath.core.engine.pieces import Optimisation
from swath.core.errors import ConfigError
from swath.core.spec import Spec

_UNDECAYED = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)


@dataclass(frozen=True)
class OpenVocabularyAdamW:
    """AdamW that falls by a cosine to 0, without warm-up.

    Args:
        lr: Highest learning rate.
        weight_decay: Decoupled weight decay; norms and embedding tables have none.
        clip_multiplier: Of the learning rate of the parameters of CLIP.
    """

    lr: float = 2e-4
    weight_decay: float = 1e-4
    clip_multiplier: float = 0.01

    def __call__(self, model: nn.Module, iterations: int) -> Optimisation:
        """The optimiser of a model's trainable parameters for a run of so many steps.

        Raises:
            ConfigError: If nothing is trainable.
        """
        groups = _groups(model, self.lr, self.weight_decay, self.clip_multiplier)
        return Optimisation(torch.optim.AdamW(groups, lr=self.lr, fused=True), _cosine(iterations))


@dataclass(frozen=True)
class OpenVocabularyMuon:
    """Muon, and AdamW for what isn't a matrix, in the published groups and with their schedule.

    Heads from scratch learn more from each step.

    Args:
        lr: See `OpenVocabularyAdamW`, as the rest.
        weight_decay: See there.
        clip_multiplier: See there.

    Source:
        Jordan et al. 2024 (Muon); see `swath.core.engine.muon`.
    """

    lr: float = 2e-4
    weight_decay: float = 1e-4
    clip_multiplier: float = 0.01

    def __call__(self, model: nn.Module, iterations: int) -> Optimisation:
        """The optimiser of a model's trainable parameters for a run of so many steps.

        Raises:
            ConfigError: If nothing is trainable, or the parameters are spread over processes.
        """
        groups = _groups(model, self.lr, self.weight_decay, self.clip_multiplier)
        return Optimisation(Muon(muon_groups(model, groups)), _cosine(iterations))


def open_vocabulary_adamw(
    lr: float = 2e-4, weight_decay: float = 1e-4, clip_multiplier: float = 0.01
) -> Spec:
    """The published optimiser; for the arguments see `OpenVocabularyAdamW`."""
    return Spec(
        OpenVocabularyAdamW, lr=lr, weight_decay=weight_decay, clip_multiplier=clip_multiplier
    )


def open_vocabulary_muon(
    lr: float = 2e-4, weight_decay: float = 1e-4, clip_multiplier: float = 0.01
) -> Spec:
    """Muon in its place; for the arguments see `OpenVocabularyMuon`."""
    return Spec(
        OpenVocabularyMuon, lr=lr, weight_decay=weight_decay, clip_multiplier=clip_multiplier
    )


def _groups(
    model: nn.Module, lr: float, weight_decay: float, clip_multiplier: float
) -> list[dict[str, Any]]:
    """Trainable parameters by rate and decay.

    Raises:
        ConfigError: If there are none.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        decay = 0.0 if isinstance(module, _UNDECAYED) else weight_decay
        rate = lr * (clip_multiplier if _within_clip(name) else 1.0)
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise ConfigError("the model has no trainable parameters; nothing can be optimised")
    return [{"params": p, "lr": r, "weight_decay": wd} for (r, wd), p in groups.items()]


def _cosine(iterations: int) -> Callable[[int], float]:
    """The factor of each step, falling from 1 to 0."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / iterations, 1.0)))


def _within_clip(name: str) -> bool:
    """Whether a module is part of CLIP, in a model or in one that `torch.compile` or DDP wraps."""
    return any(part in ("clip", "remote_clip") for part in name.split("."))
