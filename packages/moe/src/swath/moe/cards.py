"""What is known of the published MoE-MDF models, as data; imports no torch."""

from swath.core.zoo import ModelCard
from swath.moe import detection_sets, sets


def _segmenter(size: str, params: int) -> ModelCard:
    return ModelCard(
        name=f"s5-moe-vit{size}-seg",
        title=f"S5 MoE-MDF ViT-{size.upper()}: Vaihingen, Potsdam, OpenEarthMap, LoveDA; 512 px",
        task="segmentation of several data sets",
        paper="S5, Lv et al. 2025",
        paper_url="https://arxiv.org/abs/2508.12409",
        official_repo="https://github.com/MiliLab/S5",
        licence_code="Apache-2.0 (stated in the official README)",
        licence_weights="not stated separately",
        classes=tuple(f"{n}/{c}" for n in sets.NAMES for c in sets.protocol(n).classes),
        params=params,
        weights=(
            f"s5_vit_{size}_moe_mdf.pth, linked in the official README; detection's file of the "
            "same name is another model"
        ),
        builder="swath.moe.models.mdf:mdf_segmenter",
        builder_kwargs={"size": size, "tasks": sets.num_classes()},
        task_builder="swath.moe.task:MultiDatasetSegmentationTask",
        task_kwargs={"tasks": sets.task_data()},
        converter="swath.moe.models.mdf:remap_official_keys",
    )


def _detector(size: str, params: int) -> ModelCard:
    return ModelCard(
        name=f"s5-moe-vit{size}-det",
        title=f"S5 MoE-MDF ViT-{size.upper()} with Oriented R-CNN: DIOR-R, DOTA-v2.0; 1024 px",
        task="oriented detection of several data sets",
        paper="S5, Lv et al. 2025",
        paper_url="https://arxiv.org/abs/2508.12409",
        official_repo="https://github.com/MiliLab/S5",
        licence_code="Apache-2.0 (stated in the official README)",
        licence_weights="not stated separately",
        classes=tuple(
            f"{n}/{c}" for n in detection_sets.NAMES for c in detection_sets.protocol(n).classes
        ),
        params=params,
        weights=(
            f"s5_vit_{size}_moe_mdf.pth, linked in the official README; segmentation's file of the "
            "same name is another model"
        ),
        builder="swath.moe.models.mdf_detector:mdf_detector",
        builder_kwargs={"size": size, "tasks": detection_sets.num_classes()},
        task_builder="swath.moe.detection_task:MultiDatasetDetectionTask",
        task_kwargs={"tasks": detection_sets.task_data()},
        converter="swath.moe.models.mdf_detector:remap_official_keys",
    )


DOTA_V1 = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle",
    "ship", "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout",
    "harbor", "swimming-pool", "helicopter",
)  # fmt: skip
"""Class order of DOTA-v1.0 in mmrotate."""

_MMROTATE = ModelCard(
    name="oriented-rcnn-r50-dota",
    title="Oriented R-CNN, ResNet-50, DOTA-v1.0, as in mmrotate; 1024 px",
    task="detection",
    paper="Oriented R-CNN, Xie et al. 2021",
    paper_url="https://arxiv.org/abs/2108.05699",
    official_repo="https://github.com/open-mmlab/mmrotate",
    licence_code="Apache-2.0",
    licence_weights="not stated separately",
    classes=DOTA_V1,
    params=41_365_098,
    weights="oriented_rcnn_r50_fpn_1x_dota_le90 of mmrotate's model zoo",
    builder="swath.moe.models.oriented_rcnn:oriented_rcnn_r50",
    task_builder="swath.core.detection.task:DetectionTask",
    converter="swath.moe.models.oriented_rcnn:remap_mmrotate_keys",
)

CARDS = (
    _segmenter("b", 160_402_206),
    _segmenter("l", 435_012_126),
    _segmenter("h", 824_451_358),
    _detector("b", 140_642_652),
    _detector("l", 380_905_564),
    _detector("h", 733_902_684),
    _MMROTATE,
)
