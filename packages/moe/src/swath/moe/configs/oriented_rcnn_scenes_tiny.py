"""Oriented R-CNN in small: a four-block ResNet from scratch on synthetic scenes of a city.

Run:     swath train oriented_rcnn_scenes_tiny
         with --set precision=bf16 where `swath doctor` calls it fast
Source:  ours; the method of Xie et al. 2021 (Oriented R-CNN). The light differs as much from scene
         to scene as it can, and kinds of scenes take turns, so that no class is rare. Few steps
         and small images ask for what the paper doesn't: more anchors for an object, those that
         cross the border too, jittered objects for the second stage, and three rounds of that
Expect:  AP50 0.86 and AP75 0.51 on 500 unseen scenes: ships 0.97 and 0.82, vehicles 0.72 and 0.28,
         aircraft 0.86 and 0.46; 19 minutes of one core in bf16, 30 of a crowded one in
         float32 (benchmarks/results/oriented_scenes.json)
"""

from swath.core.backbones.timm import TimmPyramid
from swath.core.data.mixture import InMemory
from swath.core.data.scenes import SceneObjects
from swath.core.data.transforms import Dihedral
from swath.core.detection.task import DetectionTask
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.moe.models.oriented_rcnn import OrientedRCNN, ProposalSettings

CLASSES = ["building", "court", "tank", "vehicle", "ship", "aircraft"]
KINDS = ["residential", "industrial", "sports", "harbor", "airport"]
TAUGHT = [*KINDS, "airport"]  # every other one shows an aircraft, and few
SIZE = 192  # px


def scenes(count: int, seed: int, kinds: list[str]) -> Spec:
    """So many scenes, in turn of these kinds, in the domain with the finest pixels."""
    return Spec(
        SceneObjects,
        classes=CLASSES,
        size=SIZE,
        count=count,
        seed=seed,
        domain="urban",
        kind=kinds,
        spread=1.0,
        whole=0.7,
    )


model = Spec(
    OrientedRCNN,
    backbone=Spec(TimmPyramid, name="test_resnet", out_indices=[1, 2, 3, 4]),
    num_classes=len(CLASSES),
    channels=48,
    fc_channels=256,
    anchor_scale=3.5,
    rpn_samples=256,
    roi_samples=128,
    jittered=8,
    rounds=3,
    positive_iou=0.5,
    inside_only=False,
    periodic=True,
    proposals=Spec(ProposalSettings, before_nms=500, count=400),
    iou_threshold=0.2,  # parked side by side
)
task = Spec(DetectionTask, classes=CLASSES, iou_thresholds=[0.5, 0.75])

# data sets of different seeds share no scene; four times each is cheaper than rendering more
train = Spec(InMemory, dataset=scenes(5_000, seed=1, kinds=TAUGHT))
augment = Spec(Dihedral)
val = scenes(100, seed=2, kinds=KINDS)
test = scenes(300, seed=3, kinds=KINDS)

optimizer = adamw_cosine(lr=1e-3, weight_decay=0.05, warmup=100)
iterations = 4800
batch_size = 4
num_workers = 0
val_every = 2400
checkpoint_every = 1200
keep_last = 1
ema = 0.995
clip_norm = 10.0
channels_last = True
seed = 0

card = {
    "title": "Small Oriented R-CNN, trained on synthetic scenes of cities",
    "data": "scenes-v1, domain urban, photometric spread 1, rendered on the spot",
    "licence": "Apache-2.0",
    "use": "Shows what Oriented R-CNN learns in minutes; it has never seen a real image",
}
