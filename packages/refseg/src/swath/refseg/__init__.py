"""RemoteSAM: referring segmentation of remote-sensing imagery, and the eight tasks built on it.

Importing this module is cheap: what needs torch is imported when it is first used.
"""

import importlib
from typing import Any

_LAZY = {
    "Epoc": "swath.refseg.epoc",
    "ReferDataset": "swath.refseg.data.refer",
    "ReferringTask": "swath.refseg.task",
    "RemoteSAM": "swath.refseg.models.remotesam",
    "RemoteSAMPredictor": "swath.refseg.predictor",
    "SceneSentences": "swath.refseg.data.scenes",
    "WordPieces": "swath.refseg.text",
    "remotesam": "swath.refseg.models.remotesam",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("swath-refseg")
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.refseg' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
