"""What the published fine-tunings on the two detection sets share.

``$SWATH_DATA`` holds the folders ``dior-r``, as distributed, and ``dota``, DOTA-v2.0 cut by
``swath data prepare dota RAW $SWATH_DATA/dota``.
"""

from typing import Any

from swath.core.backbones.vit import Size
from swath.core.data.detection import CatalogueDetection
from swath.core.spec import Spec, from_data
from swath.moe import detection_sets
from swath.moe.data import MultiDataset
from swath.moe.detection_task import MultiDatasetDetectionTask
from swath.moe.models.mdf_detector import mdf_detector, single_detector

TRAIN_SPLITS = {"dior": "trainval", "dota": "trainval"}
JUDGED_SPLITS = {"dior": "test", "dota": "val"}

DIOR_TRAINVAL = 11_725
"""Images of DIOR-R's split to train on."""


def data_set(name: str, split: str) -> Spec:
    """A split of one of the two, labels by S5's protocol."""
    folder = detection_sets.CATALOGUE[name]
    return Spec(
        CatalogueDetection,
        name=folder,
        root=f"$SWATH_DATA/{folder}",
        split=split,
        protocol=detection_sets.PROTOCOL,
        min_side_px=1.0 if name == "dior" else 0.0,
    )


def from_s4p(size: Size) -> Spec:
    """ViT-MoE with an Oriented R-CNN head for each set, from the backbone of the S4P model."""
    return Spec(
        mdf_detector,
        size=size,
        tasks=detection_sets.num_classes(),
        checkpointing=size != "l",  # as officially
        weights=f"$SWATH_DATA/weights/vit_{size}_s4p.pth",
    )


def two_tasks() -> Spec:
    """Plain sum of the losses."""
    return Spec(MultiDatasetDetectionTask, tasks=from_data(detection_sets.task_data()))


def two_training_sets() -> Spec:
    """The shorter set repeated to the length of the longer, the two taking turns."""
    return Spec(MultiDataset, parts={name: data_set(name, s) for name, s in TRAIN_SPLITS.items()})


def single(name: str) -> dict[str, Any]:
    """Model, task and sets of the baseline that learns one data set: the same ViT, no experts."""
    return {
        "model": Spec(
            single_detector,
            size="b",
            num_classes=detection_sets.num_classes()[name],
            checkpointing=True,
            weights="$SWATH_DATA/weights/vit_b_s4p.pth",
        ),
        "task": from_data(detection_sets.task_data()[name]),
        "train": data_set(name, TRAIN_SPLITS[name]),
        "test": data_set(name, JUDGED_SPLITS[name]),
    }
