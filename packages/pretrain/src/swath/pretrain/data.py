"""The data sets that only pre-training uses, declared; importing this module imports no torch."""

from swath.core.data.spec import DatasetSpec, Layout, Protocol
from swath.core.zoo import ISAID_CLASSES, ISAID_PALETTE

_ID = "{id:.+}.{ext:png|jpg|jpeg|tif|tiff}"

RS4P1M = DatasetSpec(
    name="rs4p1m",
    title="RS4P-1M: a million unlabelled scenes for S4P pre-training",
    task="segmentation",
    layouts=(Layout(f"unlabeled/RS4P-1M/images/{_ID}"), Layout(f"images/{_ID}")),
    protocols={
        "s4p": Protocol(
            ISAID_CLASSES,
            ISAID_PALETTE,
            tile_px=512,
            metric="mIoU of what is pre-trained on it",
            source="S5, Lv et al. 2025: pseudo-labels in the classes of iSAID, background first",
        )
    },
    folder="unlabeled/RS4P-1M",
    where="MiliLab/S5 on GitHub",
    notes=(
        "Images without labels; the list of the official code is RS4P-1M.txt, of which S4P reads "
        "the first column. Train on it with swath.pretrain.rs4p.UnlabelledFolder (labels=True for "
        "the masks), or turn it into shards first: swath data prepare rs4p."
    ),
)
