"""Open-vocabulary segmentation of remote-sensing imagery: CAT-Seg, GSNet, RSKT-Seg.

Importing this module is cheap: what needs torch is imported when it is first used.
"""

import importlib
from typing import Any

_LAZY: dict[str, str] = {}

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
