"""AdamW as the open-vocabulary models are published with it: CLIP a hundred times slower.

Official code: `train_net.py` of https://github.com/yecy749/GSNet, the same in CAT-Seg and RSKT-Seg.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

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
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, module in model.named_modules():
            decay = 0.0 if isinstance(module, _UNDECAYED) else self.weight_decay
            lr = self.lr * (self.clip_multiplier if _within_clip(name) else 1.0)
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    groups.setdefault((lr, decay), []).append(parameter)
        if not groups:
            raise ConfigError("the model has no trainable parameters; nothing can be optimised")
        optimizer = torch.optim.AdamW(
            [{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()],
            lr=self.lr,
            fused=True,
        )

        def cosine(step: int) -> float:
            return 0.5 * (1 + math.cos(math.pi * min(step / iterations, 1.0)))

        return Optimisation(optimizer, cosine)


def open_vocabulary_adamw(
    lr: float = 2e-4, weight_decay: float = 1e-4, clip_multiplier: float = 0.01
) -> Spec:
    """The published optimiser; for the arguments see `OpenVocabularyAdamW`."""
    return Spec(
        OpenVocabularyAdamW, lr=lr, weight_decay=weight_decay, clip_multiplier=clip_multiplier
    )


def _within_clip(name: str) -> bool:
    """Whether a module is part of CLIP, in a model or in one that `torch.compile` or DDP wraps."""
    return any(part in ("clip", "remote_clip") for part in name.split("."))
