"""What the three sizes of the published pre-training share, in the layout of the released data.

``$SWATH_DATA`` holds ``labeled/iSAID/{train,val}/{images,masks}``, ``unlabeled/RS4P-1M`` with its
list ``RS4P-1M.txt``, and the authors' MAE weights as ``weights/mae_vit_{b,l,h}.pth``.
"""

from typing import Literal

from swath.core.data.segmentation import CatalogueSegmentation
from swath.core.models.segmentation import s4p_segmenter
from swath.core.spec import Spec
from swath.core.zoo import ISAID_CLASSES, ISAID_PALETTE
from swath.pretrain.rs4p.dataset import UnlabelledFolder
from swath.pretrain.semi_supervised import SemiSupervised
from swath.pretrain.task import S4PTask


def from_mae(size: Literal["b", "l", "h"]) -> Spec:
    """ViT with UPerNet, the ViT from MAE pre-training on MillionAID; activations recomputed."""
    return Spec(
        s4p_segmenter,
        size=size,
        num_classes=len(ISAID_CLASSES),
        checkpointing=True,
        weights=f"$SWATH_DATA/weights/mae_vit_{size}.pth",
    )


def s4p_task() -> Spec:
    """Threshold 0.95, labels made on line in fp32; judged without background."""
    return Spec(
        S4PTask,
        classes=list(ISAID_CLASSES),
        palette=[list(colour) for colour in ISAID_PALETTE],
        threshold=0.95,
        label_precision="fp32",
        mean_over="all",
        mean_without=["background"],
    )


def isaid(split: str) -> Spec:
    """Crops of iSAID with index masks."""
    root = "$SWATH_DATA/labeled/iSAID"
    return Spec(CatalogueSegmentation, name="isaid", root=root, split=split, protocol="s4p")


def isaid_and_rs4p1m() -> Spec:
    """Labelled crops and a million unlabelled images, half of them with a partner for CutMix.

    The partner is another image; ``--set train.mix=same`` takes another view of the same one, as
    the official loaders do.
    """
    unlabelled = Spec(
        UnlabelledFolder,
        root="$SWATH_DATA/unlabeled/RS4P-1M",
        list_file="$SWATH_DATA/unlabeled/RS4P-1M/RS4P-1M.txt",
        max_broken=0.001,
    )
    return Spec(SemiSupervised, labelled=isaid("train"), unlabelled=unlabelled, cutmix=0.5)
