"""The loss on pseudo-labels.

Source:
    S5 dossier b, step 3 to 5 (`S4_Pretrain/util/train_utils.py` and the loss lines of
    `s4_pretrain.py`, read); Sohn et al. 2020, arXiv:2001.07685 (FixMatch), equations 3 and 4.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def pseudo_labels(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What a network takes each pixel for, and how sure it is.

    Args:
        logits: float ``(B, K, H, W)``.

    Returns:
        Labels int64 ``(B, H, W)`` and confidences float ``(B, H, W)`` in [1/K, 1].
    """
    confidence, label = logits.softmax(1).max(1)
    return label, confidence


def cutmix(value: Tensor, mix: Tensor, box: Tensor) -> Tensor:
    """Paste a box of one map into another: images, labels, confidences or ignore masks alike.

    Args:
        value: ``(..., H, W)``.
        mix: ``(..., H, W)``, of the same dtype.
        box: bool ``(H, W)``; or ``(B, H, W)`` for maps ``(B, H, W)`` or images ``(B, C, H, W)``.

    Returns:
        ``mix`` inside the box, ``value`` outside.
    """
    if box.ndim == 3 and value.ndim == 4:
        box = box[:, None]
    return torch.where(box, mix, value)


def confident(confidence: Tensor, ignore: Tensor, threshold: float = 0.95) -> Tensor:
    """Which pixels are learnt from: seen by the sensor and labelled with enough confidence.

    Args:
        confidence: float ``(B, H, W)``.
        ignore: bool ``(B, H, W)``, True where nobody saw anything (padding, nodata).
        threshold: Least confidence.

    Returns:
        bool ``(B, H, W)``.
    """
    return (confidence >= threshold) & ~ignore


def unlabelled_loss(
    logits: Tensor,
    label: Tensor,
    confidence: Tensor,
    ignore: Tensor,
    threshold: float = 0.95,
) -> Tensor:
    """Cross-entropy of the confident pixels, divided by the number of all that were seen.

    The denominator counts pixels of low confidence too, so that the loss grows with the network's
    confidence; 0, not NaN, where nothing was seen.

    Args:
        logits: float ``(B, K, H, W)`` of the strong views.
        label: int64 ``(B, H, W)``, pseudo-labels.
        confidence: float ``(B, H, W)`` of the pseudo-labels.
        ignore: bool ``(B, H, W)``, True where nobody saw anything.
        threshold: Least confidence that is learnt from.
    """
    learnt = confident(confidence, ignore, threshold)
    loss = F.cross_entropy(logits, label, reduction="none")
    return (loss * learnt).sum() / (~ignore).sum().clamp_min(1)
