"""Unlabelled archives for pre-training: prepared into shards, and read from them.

Importing this package imports no torch, since the command line looks into it.
"""

import importlib
from typing import Any

_LAZY = {
    "Recipe": "recipe",
    "ShardDataset": "dataset",
    "UnlabelledFolder": "dataset",
    "prepare": "pipeline",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swath.pretrain.rs4p' has no attribute '{name}'")
    return getattr(importlib.import_module(f"swath.pretrain.rs4p.{_LAZY[name]}"), name)
