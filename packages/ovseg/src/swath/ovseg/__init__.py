"""Open-vocabulary segmentation of remote-sensing imagery: CAT-Seg, SED, GSNet, RSKT-Seg.

Importing this module is cheap: what needs torch is imported when it is first used.
"""

import importlib
from typing import Any

_LAZY = {
    "CATSeg": "swath.ovseg.models.catseg",
    "CLIP": "swath.ovseg.clip",
    "CaptionTask": "swath.ovseg.contrastive",
    "CostMaps": "swath.ovseg.costs",
    "DINO": "swath.ovseg.dino",
    "GSNet": "swath.ovseg.models.gsnet",
    "MaskCLIP": "swath.ovseg.models.maskclip",
    "NamedCrops": "swath.ovseg.scenes",
    "OpenVocabularyTask": "swath.ovseg.task",
    "PublishedProtocol": "swath.ovseg.protocols",
    "RSKTSeg": "swath.ovseg.models.rskt_seg",
    "SED": "swath.ovseg.models.sed",
    "SemSegMetrics": "swath.ovseg.metrics",
    "caption_contrast": "swath.ovseg.contrastive",
    "cost_maps": "swath.ovseg.costs",
    "join_zip": "swath.ovseg.split_zip",
    "mean_iou": "swath.ovseg.metrics",
    "open_vocabulary_adamw": "swath.ovseg.optimizers",
    "open_vocabulary_muon": "swath.ovseg.optimizers",
    "pixelwise_bce": "swath.ovseg.losses",
    "pretrained": "swath.ovseg.models.towers",
    "published_augment": "swath.ovseg.augment",
    "tokenize": "swath.ovseg.prompts",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("swath-ovseg")
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.ovseg' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
