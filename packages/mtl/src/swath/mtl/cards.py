"""What is known of the published RSCoTr models, as data; imports no torch."""

from typing import Any

from swath.core.zoo import ModelCard
from swath.mtl import sets


def _rscotr(name: str, title: str, params: int, weights: str, **options: Any) -> ModelCard:
    return ModelCard(
        name=name,
        title=title,
        task="classification, detection and segmentation",
        paper="RSCoTr, Li et al. 2024",
        paper_url="https://doi.org/10.1109/TGRS.2024.3354783",
        official_repo="https://github.com/Li-Qingyun/RSCoTr",
        licence_code="not stated",
        licence_weights="not stated",
        classes=tuple(f"{n}/{c}" for n in sets.PROTOCOLS for c in sets.protocol(n).classes),
        params=params,
        weights=weights,
        builder="swath.mtl.models.rscotr:rscotr",
        builder_kwargs={"classes": sets.num_classes(), **options},
        task_builder="swath.mtl.multi_task:MultiTask",
        task_kwargs={"parts": sets.task_datas()},
        converter="swath.mtl.models.rscotr:remap_official_keys",
    )


CARDS = (
    _rscotr(
        "rscotr-swin-t",
        "RSCoTr Swin-T: RESISC45 classes, DIOR boxes, Potsdam IRRG masks",
        62_552_719,
        "rscotr_round-robin_1-1-0.1_slvl-cls.pth, published on Hugging Face in Qingyun/RSCoTr",
    ),
    _rscotr(
        "rscotr-swin-t-mlvl",
        "RSCoTr Swin-T whose classes come from the shared encoder, too",
        62_482_063,
        "not published as of the official README",
        multi_level=True,
        mask_queries=5,
    ),
)
