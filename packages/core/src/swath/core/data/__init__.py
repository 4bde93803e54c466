"""Data sets, their protocols, readers and checks.

Describing a data set needs no torch; reading one does, so what reads is imported when it is first
used.
"""

import importlib
from typing import Any

_LAZY = {
    "CatalogueDetection": "detection",
    "CatalogueSegmentation": "segmentation",
    "ClassFolders": "classification",
    "CocoJson": "detection",
    "DatasetSpec": "spec",
    "DotaText": "detection",
    "FolderSegmentation": "segmentation",
    "GeoRasterSegmentation": "georaster",
    "Layout": "spec",
    "Protocol": "spec",
    "Radiometry": "radiometry",
    "VocXml": "detection",
    "YoloObb": "detection",
    "catalogue": "catalogue",
    "load_dataset": "catalogue",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.core.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"swath.core.data.{_LAZY[name]}"), name)
