"""What the published trainings share.

``$SWATH_DATA`` holds the data sets' folders, and ``weights`` with the files the towers begin with:
``ViT-B-16.pt``, ``ViT-L-14-336px.pt`` (CLIP), ``RemoteCLIP-ViT-B-32.pt``, ``RSIB.pth``, and for SED
open_clip's ``convnext_base_w_320.bin`` (laion_aesthetic_s13b_b82k).
"""

from collections.abc import Callable
from typing import Any

from swath.core.data.segmentation import CatalogueSegmentation
from swath.core.spec import Spec
from swath.ovseg.datasets import DATASETS
from swath.ovseg.models.towers import pretrained
from swath.ovseg.protocols import PublishedProtocol
from swath.ovseg.task import OpenVocabularyTask

WEIGHTS = "$SWATH_DATA/weights"
_CLIP = {"b": f"{WEIGHTS}/ViT-B-16.pt", "l": f"{WEIGHTS}/ViT-L-14-336px.pt"}
_SPECS = {spec.name: spec for spec in DATASETS}


def from_towers(
    build: Callable[..., Any],
    size: str,
    *,
    remote: bool = False,
    specialist: bool = True,
    **options: Any,
) -> Spec:
    """A model that begins with the weights of its towers, rounded as officially."""
    towers = {"clip": _CLIP[size]}
    if remote:
        towers["remote_clip"] = f"{WEIGHTS}/RemoteCLIP-ViT-B-32.pt"
    if specialist:
        towers["specialist"] = f"{WEIGHTS}/RSIB.pth"
    model = Spec(build, size=size, **options)
    return Spec(pretrained, model=model, weights=towers, round_to_half=True)


def data(name: str, split: str = "all", folder: str | None = None) -> Spec:
    """A split of a data set in its folder."""
    root = f"$SWATH_DATA/{folder or _SPECS[name].folder}"
    return Spec(CatalogueSegmentation, name=name, root=root, split=split)


def published_task(name: str, *, slide: bool) -> Spec:
    """A data set's classes, judged as published."""
    protocol = _SPECS[name].protocol()
    return Spec(
        OpenVocabularyTask,
        classes=list(protocol.classes),
        palette=[list(colour) for colour in protocol.palette],
        ignore_index=protocol.ignore_index,
        evaluation=Spec(PublishedProtocol, slide=slide),
    )
