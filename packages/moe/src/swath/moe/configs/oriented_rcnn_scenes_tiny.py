"""Oriented R-CNN in small: a four-block ResNet from scratch on synthetic scenes of cities.

Run:     swath train oriented_rcnn_scenes_tiny
Source:  ours; the method of Xie et al. 2021 (Oriented R-CNN). The light differs as much from scene
         to scene as it can. Vehicles are 12 px long and 5 wide: the pyramid begins at stride 2
Expect:  AP50 0.44 and AP75 0.20 on 300 unseen scenes, vehicles 0.60 and 0.31, rare or large objects
         far less; about 13 minutes of CPU time (benchmarks/results/oriented_scenes.json)
"""

from swath.core.backbones.timm import TimmPyramid
from swath.core.data.scenes import SceneObjects
from swath.core.detection.task import DetectionTask
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.moe.models.oriented_rcnn import OrientedRCNN, ProposalSettings

CLASSES = ["building", "court", "tank", "vehicle"]
SIZE = 192  # px


def scenes(count: int, seed: int) -> Spec:
    """So many scenes of the domain with the finest pixels, at the full photometric spread."""
    return Spec(
        SceneObjects,
        classes=CLASSES,
        size=SIZE,
        count=count,
        seed=seed,
        domain="urban",
        spread=1.0,
        whole=0.7,
    )


model = Spec(
    OrientedRCNN,
    backbone=Spec(TimmPyramid, name="test_resnet", out_indices=[0, 1, 2, 3, 4]),
    num_classes=len(CLASSES),
    channels=32,
    fc_channels=256,
    anchor_scale=5.0,
    rpn_samples=128,
    roi_samples=128,
    proposals=Spec(ProposalSettings, before_nms=300, count=300),
    iou_threshold=0.2,  # parked side by side
)
task = Spec(DetectionTask, classes=CLASSES, iou_thresholds=[0.5, 0.75])

# data sets of different seeds share no scene; there are more than are ever seen, so that turning
# and lighting them anew isn't needed
train = scenes(100_000, seed=1)
val = scenes(60, seed=2)
test = scenes(300, seed=3)

optimizer = adamw_cosine(lr=1e-3, weight_decay=0.05, warmup=100)
iterations = 1800
batch_size = 4
num_workers = 0
val_every = 450
checkpoint_every = 450
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
