"""Buildings on drone tiles of Kampala: a U-Net from scratch, judged on places it hasn't seen.

Run:     SWATH_DATA=<samples> swath train kampala_unet --set train.fold=2 --set test.fold=2
         (or --set train.root=<folder> --set test.root=<folder>)
Source:  ours; no weights from elsewhere. There is no validation set, so that nothing is chosen by
         looking at the held-out places; the last weights are the result. Architecture, length and
         augmentation were chosen by trials with seeds 100 and 101 that were trained on two or three
         places and judged on others. All places but the one of fold 1 were judged on in some trial:
         only fold 1 is untouched by that choice.
Expect:  building IoU 0.64, mean over the folds (0.55 to 0.75), after about 9 minutes of one core;
         benchmarks/results/kampala.json, made by benchmarks/kampala_folds.py
"""

from swath.core.data.kampala import BUILDINGS, kampala_buildings
from swath.core.data.random_window import window_augment
from swath.core.engine.pieces import adamw_cosine
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

_ROOT = "$SWATH_DATA/segmentation/oam_kampala_buildings"

model = Spec(UNet, in_channels=3, num_classes=2, width=32, depth=3, stem_stride=4)
task = Spec(
    SegmentationTask,
    classes=list(BUILDINGS.classes),
    palette=[list(colour) for colour in BUILDINGS.palette],
    gsd_m=0.1,  # tiles of 0.075, 0.15 and 0.3 m
    flip_tta=True,
)

# whole places, so that windows cross the borders between tiles; judged tile by tile
train = Spec(kampala_buildings, root=_ROOT, fold=0, part="train", stitched=True)
augment = Spec(window_augment, size=192, scale=[0.4, 1.5])
test = Spec(kampala_buildings, root=_ROOT, fold=0, part="test")

optimizer = adamw_cosine(lr=2e-3, weight_decay=0.05, warmup=100)
iterations = 2000
batch_size = 8
num_workers = 1
checkpoint_every = 500
keep_last = 1
ema = 0.99
clip_norm = 1.0
channels_last = True
seed = 0

card = {
    "title": "U-Net for buildings on drone imagery of Kampala",
    "data": "OpenAerialMap imagery (CC-BY-4.0), OpenStreetMap buildings (ODbL-1.0)",
}
