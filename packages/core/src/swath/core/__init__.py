"""Swath's core: backbones, data, engine, geo I/O, tiled inference and the `swath` command.

Importing this module is cheap: what needs torch is imported when it is first used.
"""

import importlib
from typing import Any

_LAZY = {
    "GeoImage": "swath.core.geo.raster",
    "ModelCard": "swath.core.zoo",
    "Predictor": "swath.core.inference.predictor",
    "RotatedBoxes": "swath.core.structures",
    "Sample": "swath.core.sample",
    "Spec": "swath.core.spec",
    "SwathError": "swath.core.errors",
    "Task": "swath.core.task",
    "load_config": "swath.core.config",
    "load_dataset": "swath.core.data.catalogue",
    "load_model": "swath.core.inference.predictor",
    "read_image": "swath.core.geo.raster",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("swath-core")
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.core' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
