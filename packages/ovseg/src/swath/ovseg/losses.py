"""The loss of open-vocabulary segmentation: each class against all else, at every pixel.

Official code: the training branch of https://github.com/yecy749/GSNet, `gs_net/GSNet.py`; the same
in CAT-Seg and RSKT-Seg.
"""

from torch import Tensor
from torch.nn import functional as F


def pixelwise_bce(
    logits: Tensor, mask: Tensor, ignore_index: int, *, skip_ignored: bool = False
) -> Tensor:
    """Mean binary cross-entropy over pixels and classes.

    As published, ignored pixels stay in the mean as pixels of no class, with target 0 for all.

    Args:
        logits: float ``(B, T, h, w)``, resized bilinearly to the mask.
        mask: int64 ``(B, H, W)``, 0..T-1 or ``ignore_index``. Pixels of ``ignore_index`` are
            ignored even where that is a class (LandDiscover's background).
        ignore_index: Label of pixels of no class.
        skip_ignored: Leave ignored pixels out of the mean.

    Returns:
        A scalar; 0 if no pixel counts.
    """
    logits = F.interpolate(logits, mask.shape[-2:], mode="bilinear", align_corners=False)
    labelled = (mask != ignore_index)[:, None]
    at_target = logits.gather(1, mask.masked_fill(~labelled[:, 0], 0)[:, None])
    at_target = at_target * labelled
    elsewhere = F.softplus(logits)  # cross-entropy is softplus(x) - x * y
    if not skip_ignored:
        return elsewhere.mean() - at_target.sum() / logits.numel()
    count = (labelled.sum() * logits.shape[1]).clamp_min(1)
    return ((elsewhere * labelled).sum() - at_target.sum()) / count
