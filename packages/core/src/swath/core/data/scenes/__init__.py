"""Synthetic overhead scenes with every kind of label at once; see ``docs/scenes.md``.

`render` makes one scene, `SceneDataset` a data set of samples, `render_large` a georeferenced
GeoTIFF with its truth. Everything is a function of the seed; `VERSION` names the look.
"""

from swath.core.data.scenes.dataset import LABELS, SceneDataset, SceneObjects
from swath.core.data.scenes.domains import (
    CLASS_SETS,
    CLASSES,
    DOMAINS,
    KINDS,
    OBJECT_CLASSES,
    PALETTE,
    ClassSet,
    Domain,
)
from swath.core.data.scenes.language import Expression, SceneObject
from swath.core.data.scenes.large import render_large
from swath.core.data.scenes.scene import VERSION, Scene, render

__all__ = [
    "CLASSES",
    "CLASS_SETS",
    "DOMAINS",
    "KINDS",
    "LABELS",
    "OBJECT_CLASSES",
    "PALETTE",
    "VERSION",
    "ClassSet",
    "Domain",
    "Expression",
    "Scene",
    "SceneDataset",
    "SceneObject",
    "SceneObjects",
    "render",
    "render_large",
]
