"""The small land-cover model that comes with Swath: from scratch, on open tiles and scenes.

Run:     SWATH_DATA=<samples> python benchmarks/swath_small.py --samples <samples>
         (or SWATH_DATA=<samples> swath train swath_small)
Source:  ours; no weights from elsewhere. The sources label different classes; a pixel of which only
         "not building" or "paved" is known trains the sum of what it may be.
Expect:  see benchmarks/results/swath_small.json and assets/MODEL_CARD.md
"""

from typing import Any

from swath.core.data.kampala import kampala_buildings
from swath.core.data.mixture import Mixture, Relabelled, Selected
from swath.core.data.random_window import window_augment
from swath.core.data.scenes import SceneDataset
from swath.core.data.segmentation import CatalogueSegmentation
from swath.core.engine.pieces import adamw_cosine
from swath.core.models.unet import UNet
from swath.core.partial_labels import PartialLabelTask
from swath.core.spec import Spec

CLASSES = ["land", "building", "road", "vegetation", "water"]
PALETTE = [[214, 184, 140], [208, 82, 66], [110, 110, 120], [70, 140, 70], [54, 118, 190]]
GROUPS = {
    "not building": ["land", "road", "vegetation", "water"],
    "paved": ["land", "road"],
}
LABELS = [*CLASSES, *GROUPS]

BUILDINGS_ONLY = {"background": "not building", "building": "building"}
SCENES = {
    "grass": "vegetation",
    "field": "vegetation",
    "tree": "vegetation",
    "water": "water",
    "bare": "land",
    "road": "road",
    "pavement": "paved",
    "building": "building",
    "court": "not building",
    "tank": "not building",
    "vehicle": "not building",
    "ship": "not building",
    "aircraft": "not building",
}
HELD_OUT: dict[str, Any] = {
    "kampala_fold": 1,
    "dubai": ["image_part_001"],
    "whu": ["val_0"],
    "scenes_seed": 12,
}

_SEGMENTATION = "$SWATH_DATA/segmentation"


def kampala(part: str) -> Spec:
    """Drone tiles: building, or not."""
    tiles = Spec(
        kampala_buildings,
        root=f"{_SEGMENTATION}/oam_kampala_buildings",
        fold=HELD_OUT["kampala_fold"],
        part=part,
        stitched=part == "train",
    )
    return Spec(Relabelled, dataset=tiles, names=BUILDINGS_ONLY, labels=LABELS)


def dubai(ids: list[str]) -> Spec:
    """Satellite tiles, every class labelled."""
    every = Spec(CatalogueSegmentation, name="dubai", root=f"{_SEGMENTATION}/dubai", split="all")
    return Spec(
        Relabelled,
        dataset=Spec(Selected, dataset=every, ids=ids),
        names={name: name for name in CLASSES},
        labels=LABELS,
    )


def whu(ids: list[str]) -> Spec:
    """Aerial tiles of countryside: building, or not."""
    root = f"{_SEGMENTATION}/whu_building"
    every = Spec(CatalogueSegmentation, name="whu-building", root=root, split="all")
    return Spec(
        Relabelled,
        dataset=Spec(Selected, dataset=every, ids=ids),
        names=BUILDINGS_ONLY,
        labels=LABELS,
    )


def scenes(domain: str, seed: int, count: int) -> Spec:
    """Rendered scenes: vegetation, water and roads that the real tiles hardly label."""
    rendered = Spec(SceneDataset, size=256, count=count, seed=seed, domain=domain)
    return Spec(Relabelled, dataset=rendered, names=SCENES, labels=LABELS)


model = Spec(UNet, in_channels=3, num_classes=len(CLASSES), width=16, depth=4, stem_stride=2)
task = Spec(PartialLabelTask, classes=CLASSES, groups=GROUPS, palette=PALETTE)

train = Spec(
    Mixture,
    parts=[
        kampala("train"),
        dubai(["image_part_002", "image_part_004"]),
        whu(["0", "1"]),
        *(scenes(domain, 11, 120) for domain in ("temperate", "coastal", "urban", "arid")),
    ],
    repeats=[16, 90, 40, 1, 1, 1, 1],
)
augment = Spec(window_augment, size=192, scale=[0.4, 1.5])
test = dubai(HELD_OUT["dubai"])

optimizer = adamw_cosine(lr=2e-3, weight_decay=0.05, warmup=80)
iterations = 700
batch_size = 8
num_workers = 1
checkpoint_every = 350
keep_last = 1
ema = 0.99
clip_norm = 1.0
channels_last = True
seed = 0

card = {
    "title": "Small land-cover model that comes with Swath",
    "data": "OpenAerialMap Kampala (CC-BY-4.0; OpenStreetMap labels ODbL-1.0), Dubai land cover "
    "(CC0-1.0), WHU buildings (CC-BY-4.0), scenes-v1 (Apache-2.0)",
    "licence": "Apache-2.0; attribution in assets/MODEL_CARD.md",
}
