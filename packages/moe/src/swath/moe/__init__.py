"""MoE-MDF: one vision transformer, fine-tuned on many data sets at once.

Importing this module is cheap: what needs torch is imported when it is first used.
"""

import importlib
from typing import Any

_LAZY = {
    "MDFDetector": "swath.moe.models.mdf_detector",
    "MDFSegmenter": "swath.moe.models.mdf",
    "MultiDataset": "swath.moe.data",
    "MultiDatasetDetectionTask": "swath.moe.detection_task",
    "MultiDatasetSegmentationTask": "swath.moe.task",
    "OrientedRCNN": "swath.moe.models.oriented_rcnn",
    "TaskLogits": "swath.moe.models.mdf",
    "TokenViTMoE": "swath.moe.models.vit_moe",
    "ViTMoE": "swath.moe.models.vit_moe",
    "add_expert": "swath.moe.experts",
    "mdf_detector": "swath.moe.models.mdf_detector",
    "mdf_segmenter": "swath.moe.models.mdf",
    "single_detector": "swath.moe.models.mdf_detector",
    "vit_moe": "swath.moe.models.vit_moe",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("swath-moe")
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.moe' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
