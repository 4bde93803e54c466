"""What the published fine-tunings on the four segmentation sets share.

``$SWATH_DATA`` holds the folders ``vaihingen``, ``potsdam``, ``loveda`` and ``openearthmap``, as
`swath datasets` describes them.
"""

from typing import Any

from swath.core.backbones.vit import Size
from swath.core.data.segmentation import CatalogueSegmentation
from swath.core.models.segmentation import s4p_segmenter
from swath.core.spec import Spec, from_data
from swath.moe import sets
from swath.moe.data import MultiDataset
from swath.moe.models.mdf import mdf_segmenter
from swath.moe.task import MultiDatasetSegmentationTask

TRAIN_SPLITS = {"vaihingen": "train", "potsdam": "train", "openearthmap": "train", "loveda": "all"}
"""LoveDA is trained on with its validation images, so that it isn't validated in training."""

VALIDATED = ("vaihingen", "potsdam", "openearthmap")


def data_set(name: str, split: str) -> Spec:
    """A split of one of the four, labels by S5's protocol."""
    return Spec(
        CatalogueSegmentation,
        name=name,
        root=f"$SWATH_DATA/{name}",
        split=split,
        protocol=sets.PROTOCOL,
    )


def from_s4p(size: Size) -> Spec:
    """ViT-MoE with a decoder and a head for each set, from the whole S4P model."""
    return Spec(
        mdf_segmenter,
        size=size,
        tasks=sets.num_classes(),
        checkpointing=True,
        weights=f"$SWATH_DATA/weights/vit_{size}_s4p_upernet.pth",
    )


def four_tasks() -> Spec:
    """Plain sum of the losses; Vaihingen's counts from epoch 70 of 100."""
    tasks = from_data(sets.task_data())
    return Spec(MultiDatasetSegmentationTask, tasks=tasks, loss_from={"vaihingen": 0.7})


def four_training_sets() -> Spec:
    """Shorter sets repeated to the length of Potsdam's 12,696 crops, the sets taking turns."""
    parts = {name: data_set(name, TRAIN_SPLITS[name]) for name in sets.NAMES}
    return Spec(MultiDataset, parts=parts)


def validation_sets() -> Spec:
    """The three that have labels which weren't trained on."""
    return Spec(MultiDataset, parts={n: data_set(n, "val") for n in VALIDATED}, repeat=False)


def single(name: str) -> dict[str, Any]:
    """Model, task and sets of the baseline that learns one data set: the same ViT, no experts."""
    return {
        "model": Spec(
            s4p_segmenter, size="b", num_classes=sets.num_classes()[name], checkpointing=True
        ),
        "task": from_data(sets.task_data()[name]),
        "train": data_set(name, TRAIN_SPLITS[name]),
    }
