"""A model, data and a config so small that a step takes milliseconds."""

import math
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.config import TrainConfig
from swath.core.detection import DetectionTask
from swath.core.engine.pieces import adamw_cosine
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.core.structures import RotatedBoxes
from swath.moe.data import MultiDataset
from swath.moe.detection_task import MultiDatasetDetectionTask
from swath.moe.models.mdf import MDFSegmenter
from swath.moe.models.mdf_detector import MDFDetector
from swath.moe.models.oriented_rcnn import ProposalSettings
from swath.moe.models.vit_moe import TokenViTMoE, ViTMoE
from swath.moe.task import MultiDatasetSegmentationTask

torch.set_num_threads(1)

TASKS = {"fields": ["ground", "crop", "fallow"], "roofs": ["ground", "roof"]}


class Squares:
    """Noise with a brighter square, whose place the mask tells."""

    def __init__(self, count: int, classes: int, size: int = 32, seed: int = 0) -> None:
        self.count, self.classes, self.size, self.seed = count, classes, size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(self.seed * 1000 + index)
        side = self.size
        image = torch.randint(0, 100, (3, side, side), generator=generator, dtype=torch.uint8)
        mask = torch.zeros(side, side, dtype=torch.uint8)
        y, x = torch.randint(0, side - 12, (2,), generator=generator).tolist()
        image[:, y : y + 12, x : x + 12] += 100
        mask[y : y + 12, x : x + 12] = self.classes - 1
        return Sample(
            tv_tensors.Image(image),
            {"mask": tv_tensors.Mask(mask)},
            meta={"id": str(index), "path": f"{self.seed}-{index}.tif"},
        )


MODEL = Spec(
    MDFSegmenter,
    backbone=Spec(
        ViTMoE,
        num_experts=2,
        part_features=8,
        img_size=32,
        embed_dims=32,
        num_layers=4,
        num_heads=2,
        out_indices=[0, 1, 2, 3],
    ),
    tasks={name: len(classes) for name, classes in TASKS.items()},
    width=16,
)
TASK = Spec(
    MultiDatasetSegmentationTask,
    tasks={name: Spec(SegmentationTask, classes=classes) for name, classes in TASKS.items()},
)


def sets(repeat: bool, seed: int) -> Spec:
    return Spec(
        MultiDataset,
        parts={
            name: Spec(Squares, count=6 - 2 * i, classes=len(classes), seed=seed + i)
            for i, (name, classes) in enumerate(TASKS.items())
        },
        repeat=repeat,
    )


@pytest.fixture
def tiny() -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        task=TASK,
        train=sets(repeat=True, seed=0),
        val=sets(repeat=False, seed=50),
        optimizer=adamw_cosine(lr=1e-3),
        iterations=6,
        batch_size=4,
        num_workers=0,
        val_every=3,
        checkpoint_every=2,
        log_every=1,
    )


@pytest.fixture
def routed(tiny: TrainConfig) -> TrainConfig:
    """The same with experts for tokens."""
    before = {k: v for k, v in MODEL["backbone"].kwargs.items() if k != "part_features"}
    backbone = Spec(TokenViTMoE, **{**before, "num_experts": 3, "top_k": 2, "balance": 0.1})
    return replace(tiny, model=Spec(MDFSegmenter, **{**MODEL.kwargs, "backbone": backbone}))


OBJECTS = {"ships": ["ferry", "barge"], "planes": ["jet"]}


class Bars:
    """Noise with a bright turned bar, whose box is told; every third scene is empty."""

    def __init__(self, count: int, classes: int, size: int = 64, seed: int = 0) -> None:
        self.count, self.classes, self.size, self.seed = count, classes, size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        image = rng.integers(0, 100, (self.size, self.size, 3), dtype=np.uint8)
        rows: list[list[float]] = []
        if index % 3:
            x, y, degrees = (*rng.uniform(20, self.size - 20, 2), rng.uniform(0, 180))
            corners = cv2.boxPoints(((x, y), (26, 10), degrees))
            cv2.fillPoly(image, [corners.round().astype(np.int32)], (220, 220, 220))
            rows.append([x, y, 26, 10, math.radians(degrees)])
        boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
        return Sample(
            tv_tensors.Image(torch.from_numpy(image.transpose(2, 0, 1).copy())),
            {
                "boxes": RotatedBoxes(boxes, canvas_size=(self.size, self.size)),
                "labels": torch.full((len(boxes),), index % self.classes),
            },
            meta={"id": str(index), "path": f"{self.seed}-{index}.tif"},
        )


DETECTOR = Spec(
    MDFDetector,
    backbone=Spec(
        ViTMoE,
        num_experts=2,
        part_features=8,
        img_size=64,
        embed_dims=32,
        num_layers=4,
        num_heads=2,
        out_indices=[0, 1, 2, 3],
    ),
    tasks={name: len(classes) for name, classes in OBJECTS.items()},
    channels=16,
    fc_channels=32,
    anchor_scale=4.0,
    proposals=Spec(ProposalSettings, before_nms=50, count=50),
    rpn_samples=64,
    roi_samples=32,
)


def bars(repeat: bool, seed: int) -> Spec:
    return Spec(
        MultiDataset,
        parts={
            name: Spec(Bars, count=6 - 2 * i, classes=len(classes), seed=seed + i)
            for i, (name, classes) in enumerate(OBJECTS.items())
        },
        repeat=repeat,
    )


@pytest.fixture
def detection(tiny: TrainConfig) -> TrainConfig:
    task = Spec(
        MultiDatasetDetectionTask,
        tasks={name: Spec(DetectionTask, classes=classes) for name, classes in OBJECTS.items()},
    )
    return replace(
        tiny, model=DETECTOR, task=task, train=bars(repeat=True, seed=0), val=bars(False, seed=50)
    )


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Tensors recorded from the official implementations."""
    root = Path(__file__).resolve().parents[3]
    path = Path(os.environ.get("SWATH_PARITY_DIR", root.parent / "shared" / "parity"))
    if not path.is_dir():
        pytest.skip("shared parity folder absent")
    return path
