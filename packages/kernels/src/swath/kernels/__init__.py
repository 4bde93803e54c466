"""Fused operators and rotated-box geometry.

Importing this module is cheap: torch is imported when a function is first used.
"""

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("swath-kernels")

_EXPORTS = {
    "boxes": (
        "VERSIONS",
        "box_areas",
        "boxes_to_detectron2",
        "boxes_to_hbb",
        "boxes_to_quads",
        "boxes_to_s5",
        "convert_boxes",
        "detectron2_to_boxes",
        "hbb_to_boxes",
        "normalise_boxes",
        "quad_areas",
        "quads_to_boxes",
        "quads_to_hbb",
        "s5_to_boxes",
    ),
    "losses": ("gwd_loss", "kfiou_loss", "kld_loss", "rotated_giou_loss", "rotated_iou_loss"),
    "ops.cost_volume": ("cost_volume",),
    "ops.moe_mlp": ("MoERouting", "load_balance_loss", "moe_mlp"),
    "ops.ms_deform_attn": ("ms_deform_attn", "ms_deform_attn_from_logits"),
    "ops.roi_align_rotated": ("multilevel_roi_align_rotated", "roi_align_rotated"),
    "ops.task_ffn": ("task_ffn",),
    "ops.rotated_iou": ("rotated_iou",),
    "ops.rotated_nms": ("rotated_nms",),
}
_LAZY = {name: f"{__name__}.{module}" for module, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.kernels' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
