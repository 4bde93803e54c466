"""What RemoteSAM minimises: weighted cross-entropy and Dice, nine parts to one; and a loss of ours.

Official code: https://github.com/1e12Leon/RemoteSAM, `loss/`; dossier section 2.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTH = 1e-6


def cross_entropy(logits: Tensor, target: Tensor, object_weight: float = 1.1) -> Tensor:
    """Mean over pixels of the cross-entropy, in which object pixels count more than others.

    Args:
        logits: ``(B, 2, H, W)``.
        target: int64 ``(B, H, W)``, 1 for the object and 0 elsewhere; -100 is left out.
        object_weight: Weight of object pixels; the others have 2 minus it.
    """
    return F.cross_entropy(
        logits, target, weight=logits.new_tensor([2 - object_weight, object_weight])
    )


def dice(
    logits: Tensor,
    target: Tensor,
    reduction: Literal["sum", "mean"] = "sum",
    squared: bool = False,
) -> Tensor:
    """One minus the soft Dice coefficient of either class of each sample, summed or averaged.

    Args:
        logits: ``(B, 2, H, W)``.
        target: int64 ``(B, H, W)``; what is neither 0 nor 1 belongs to neither class.
        reduction: ``"sum"``, as officially, grows with the batch: a change of batch size shifts the
            balance with the cross-entropy. ``"mean"`` doesn't.
        squared: Squares probabilities and labels in the denominator.
    """
    probabilities = logits.softmax(1)
    classes = torch.arange(logits.shape[1], device=target.device)[:, None, None]
    truth = (target[:, None] == classes).to(logits.dtype)
    overlap = (probabilities * truth).sum((2, 3))
    power = 2 if squared else 1
    size = (probabilities**power + truth**power).sum((2, 3))
    losses = 1 - (2 * overlap + SMOOTH) / (size + SMOOTH)
    return losses.sum() if reduction == "sum" else losses.mean()


def referring_losses(
    logits: Tensor,
    target: Tensor,
    dice_weight: float = 0.1,
    dice_reduction: Literal["sum", "mean"] = "sum",
    object_weight: float = 1.1,
) -> dict[str, Tensor]:
    """The two parts, weighted, by name; their sum is the loss.

    Args:
        logits: ``(B, 2, H, W)``.
        target: int64 ``(B, H, W)``.
        dice_weight: Weight of the Dice loss; the cross-entropy has the rest to 1.
        dice_reduction: See `dice`.
        object_weight: See `cross_entropy`.
    """
    return {
        "ce": (1 - dice_weight) * cross_entropy(logits, target, object_weight),
        "dice": dice_weight * dice(logits, target, dice_reduction),
    }


def word_loss(naming: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Cross-entropy between the words that are true of a place and those found there.

    Where no word is true, the start mark is meant. So that small objects count, a word weighs as
    much as the inverse root of the share of the image that it is true of; so that places are those
    of objects, a stage counts half as much as the finer one before. Ours, not RemoteSAM's.

    Args:
        naming: Log-probabilities of N tokens for each place, ``(B, h_i, w_i, N)``, by stage.
        shares: Of each place, what share each token is true of, 0..1, ``(B, N, h, w)``; 0 for
            tokens that name nothing one could see, the start mark, token 0, among them.
    """
    none = (1 - shares.sum(1, keepdim=True)).clamp(min=0)
    truth = torch.cat([none, shares[:, 1:]], dim=1)
    truth = truth / truth.sum(1, keepdim=True)
    weight = truth.mean((2, 3), keepdim=True).clamp(min=1e-4).rsqrt()
    weight = weight / (truth * weight).sum(1).mean((1, 2))[:, None, None, None]
    total = weight.new_zeros(())
    for i, log in enumerate(naming):
        height, width = log.shape[1:3]
        meant = F.adaptive_avg_pool2d(truth * weight, (height, width)).permute(0, 2, 3, 1)
        total = total - (meant * log).sum(-1).mean() / 2**i
    mean: Tensor = total / (2 - 2 ** (1 - len(naming)))
    return mean
