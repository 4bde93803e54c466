"""What detectors are made of: pyramid, anchors, assignment, sampling, coders, pooling, NMS.

Whole detectors live in the packages of their papers. Rotated boxes are Swath's own everywhere (see
`swath.kernels.boxes`); a coder or a pooling that was trained with angles of the other sense says
so.
"""

import importlib
from typing import Any

_LAZY = {
    "FPN": "fpn",
    "AnchorGenerator": "anchors",
    "DeltaXYWHCoder": "coders",
    "DetectionTask": "task",
    "MidpointOffsetCoder": "coders",
    "RotatedDeltaCoder": "coders",
    "RotatedRoIPool": "roi_pool",
    "assign_by_iou": "assign",
    "class_wise_nms": "nms",
    "merge_detections": "merge",
    "pairwise_iou": "assign",
    "representative": "coders",
    "sample_boxes": "assign",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.core.detection' has no attribute '{name}'")
    return getattr(importlib.import_module(f"swath.core.detection.{_LAZY[name]}"), name)
