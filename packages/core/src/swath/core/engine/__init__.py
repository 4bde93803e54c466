"""Training and evaluation of any ``(model, task)`` pair; the only place that imports mmengine.

Importing this package is cheap: the runner underneath is imported when training starts.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swath.core.engine.evaluation import evaluate, evaluate_on
    from swath.core.engine.training import RunSummary, smoke, train

_LAZY = {
    "RunSummary": "swath.core.engine.training",
    "evaluate": "swath.core.engine.evaluation",
    "evaluate_on": "swath.core.engine.evaluation",
    "smoke": "swath.core.engine.training",
    "train": "swath.core.engine.training",
}

__all__ = ["RunSummary", "evaluate", "evaluate_on", "smoke", "train"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.core.engine' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)
