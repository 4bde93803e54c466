"""The published optimiser: groups, rates and what is left out of them."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swath.core.engine.pieces import Optimisation
from swath.core.spec import Spec

_UNDECAYED = ("norm", "absolute_pos_embed", "relative_position_bias_table")
_BERT_LAYER = re.compile(r"text_encoder\.encoder\.layer\.(\d+)\.")

OFFICIAL_BERT_LAYERS = 10
"""Layers of BERT that the official script hands to the optimiser, from the first on."""


@dataclass(frozen=True)
class RemoteSAMAdamW:
    """AdamW in the official groups; the rate falls as ``(1 - done) ** power``, without warm-up.

    In the backbone, what is called a norm and the position biases don't decay, while biases and
    batch norms do. BERT's embeddings and its layers from ``bert_layers`` on are not optimised:
    officially the last two, by omission, although they get gradients.

    Args:
        lr: First learning rate.
        weight_decay: Decoupled weight decay.
        power: Exponent of the decay of the rate.
        bert_layers: Layers of BERT that are trained; None trains all, and its embeddings too.

    Source:
        Dossier section 2.
    """

    lr: float = 3e-5
    weight_decay: float = 0.01
    power: float = 0.9
    bert_layers: int | None = OFFICIAL_BERT_LAYERS

    def __call__(self, model: nn.Module, iterations: int) -> Optimisation:
        """The optimiser of a `RemoteSAM` for a run of so many steps."""
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            group = self.group(name)
            if group is None:
                continue
            decay = 0.0 if group == "backbone_no_decay" else self.weight_decay
            entry = {"params": [], "lr": self.lr, "weight_decay": decay, "name": group}
            groups.setdefault(group, entry)["params"].append(parameter)
        optimizer = torch.optim.AdamW(list(groups.values()), lr=self.lr)

        def factor(step: int) -> float:
            return float((1 - min(step / max(iterations, 1), 1.0)) ** self.power)

        return Optimisation(optimizer, factor)

    def group(self, name: str) -> str | None:
        """The group that a parameter belongs to; None for those that stay as they are."""
        part = name.split(".")[0]
        if part == "backbone":
            exempt = any(word in name for word in _UNDECAYED)
            return "backbone_no_decay" if exempt else "backbone_decay"
        if part == "classifier":
            return "classifier"
        if self.bert_layers is None:
            return "bert"
        layer = _BERT_LAYER.match(name)
        if layer is None or int(layer[1]) >= self.bert_layers:
            return None
        return f"bert_layers_0_to_{self.bert_layers - 1}"


def remotesam_adamw(
    lr: float = 3e-5,
    weight_decay: float = 0.01,
    power: float = 0.9,
    bert_layers: int | None = OFFICIAL_BERT_LAYERS,
) -> Spec:
    """The optimiser as configs want it; for the arguments see `RemoteSAMAdamW`."""
    return Spec(
        RemoteSAMAdamW, lr=lr, weight_decay=weight_decay, power=power, bert_layers=bert_layers
    )
