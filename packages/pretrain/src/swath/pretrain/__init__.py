"""S4P: semi-supervised segmentation pre-training on labelled and unlabelled scenes.

Importing this module is cheap: what needs torch is imported when it is first used.
"""

import importlib
from typing import Any

_LAZY = {
    "S4PTask": "swath.pretrain.task",
    "S4PViews": "swath.pretrain.views",
    "SemiSupervised": "swath.pretrain.semi_supervised",
    "ShardDataset": "swath.pretrain.rs4p.dataset",
    "UnlabelledFolder": "swath.pretrain.rs4p.dataset",
    "export_official": "swath.pretrain.official",
    "unlabelled_loss": "swath.pretrain.losses",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("swath-pretrain")
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.pretrain' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
