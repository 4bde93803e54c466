"""A model, data and a config so small that a step takes milliseconds."""

from typing import Any

import pytest
import torch

from swath.core.backbones.swin import Swin
from swath.core.config import TrainConfig
from swath.core.data.scenes import CLASS_SETS, KINDS, OBJECT_CLASSES, SceneDataset
from swath.core.spec import Spec
from swath.mtl.data import Part, TaskMixture
from swath.mtl.models.dino import DINOHead
from swath.mtl.models.heads import SceneClassifier
from swath.mtl.models.mask_decoder import MaskDecoder
from swath.mtl.models.rscotr import RSCoTr
from swath.mtl.multi_task import MultiTask
from swath.mtl.optim import CoTrainingAdamW
from swath.mtl.tasks import BoxTask, MaskTask, SceneClassificationTask

torch.set_num_threads(1)

MASK_CLASSES = list(CLASS_SETS["landcover"].classes)
SMALL = {"dim": 32, "heads": 4, "hidden": 48}

HEADS = {
    "cls": Spec(SceneClassifier, num_classes=len(KINDS), in_channels=64),
    "det": Spec(
        DINOHead,
        num_classes=len(OBJECT_CLASSES),
        num_queries=15,
        depth=2,
        dn_queries=10,
        sync_normaliser=False,
        **SMALL,
    ),
    "seg": Spec(
        MaskDecoder,
        num_classes=len(MASK_CLASSES),
        num_queries=len(MASK_CLASSES) + 1,
        depth=2,
        **SMALL,
    ),
}


def model_spec(**options: Any) -> Spec:
    """A whole model of a few thousand weights."""
    backbone = Spec(
        Swin, embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], drop_path_rate=0.0
    )
    arguments = {
        "heads": HEADS,
        "dim": 32,
        "encoder_depth": 1,
        "encoder_heads": 4,
        "encoder_hidden": 48,
        "norm_groups": 4,
    }
    return Spec(RSCoTr, backbone=backbone, **(arguments | options))


TASKS = {
    "cls/kinds": Spec(SceneClassificationTask, classes=list(KINDS)),
    "det/things": Spec(BoxTask, classes=list(OBJECT_CLASSES)),
    "seg/cover": Spec(MaskTask, classes=MASK_CLASSES),
}


def task_spec(**options: Any) -> Spec:
    """Three tasks."""
    return Spec(MultiTask, parts=TASKS, **options)


LABELS = {"cls/kinds": "label", "det/things": "boxes", "seg/cover": "mask"}
BATCH_SIZES = {"cls/kinds": 3, "det/things": 1, "seg/cover": 2}
COUNTS = {"cls/kinds": 7, "det/things": 4, "seg/cover": 5}


def data_spec(seed: int = 0, **options: Any) -> Spec:
    """Three data sets, each annotated for one task only."""
    parts = {
        name: Spec(
            Part,
            dataset=Spec(
                SceneDataset,
                size=64,
                count=COUNTS[name],
                seed=10 * seed + number,
                labels=[label],
                class_set="landcover",
            ),
            batch_size=BATCH_SIZES[name],
        )
        for number, (name, label) in enumerate(LABELS.items())
    }
    return Spec(TaskMixture, parts=parts, **options)


@pytest.fixture
def tiny() -> TrainConfig:
    return TrainConfig(
        model=model_spec(),
        task=task_spec(),
        train=data_spec(0),
        val=data_spec(1),
        optimizer=Spec(CoTrainingAdamW, lr=1e-4, lr_factors={"backbone": 0.1}),
        iterations=6,
        batch_size=2,
        num_workers=0,
        val_every=6,
        checkpoint_every=2,
        log_every=1,
        clip_norm=0.1,
        find_unused_parameters=True,
    )


@pytest.fixture
def model(tiny: TrainConfig) -> RSCoTr:
    torch.manual_seed(0)
    built: RSCoTr = tiny.model.build()
    return built.eval()
