"""RSCoTr: classification, detection and segmentation of remote-sensing imagery, co-trained.

Importing this module is cheap: what needs torch is imported when it is first used.
"""

import importlib
from typing import Any

_LAZY = {
    "CoTrainingAdamW": "swath.mtl.optim",
    "BoxTask": "swath.mtl.tasks",
    "DINOHead": "swath.mtl.models.dino",
    "Head": "swath.mtl.models.heads",
    "HeadTask": "swath.mtl.tasks",
    "MaskDecoder": "swath.mtl.models.mask_decoder",
    "MaskTask": "swath.mtl.tasks",
    "MultiTask": "swath.mtl.multi_task",
    "Part": "swath.mtl.data",
    "RSCoTr": "swath.mtl.models.rscotr",
    "SceneClassificationTask": "swath.mtl.tasks",
    "SceneClassifier": "swath.mtl.models.heads",
    "TaskMixture": "swath.mtl.data",
    "rscotr": "swath.mtl.models.rscotr",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("swath-mtl")
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.mtl' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
