"""Oriented R-CNN in small: a ten-layer ResNet from scratch on synthetic scenes of cities.

Run:     swath train oriented_rcnn_scenes_tiny
Source:  ours; the method of Xie et al. 2021 (Oriented R-CNN)
Expect:  not run to its end here. AP50 0.48, AP75 0.02 on its validation scenes after half of the
         steps, 11 minutes of CPU time on a busy core
"""

from swath.core.backbones.timm import TimmPyramid
from swath.core.data.scenes import SceneObjects
from swath.core.data.transforms import light_augment
from swath.core.detection.task import DetectionTask
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.moe.models.oriented_rcnn import OrientedRCNN, ProposalSettings

CLASSES = ["building", "court", "tank", "vehicle"]
SIZE = 192


def scenes(count: int, seed: int) -> Spec:
    """So many scenes of the domain with the finest pixels."""
    return Spec(SceneObjects, classes=CLASSES, size=SIZE, count=count, seed=seed, domain="urban")


model = Spec(
    OrientedRCNN,
    backbone=Spec(TimmPyramid, name="resnet10t"),
    num_classes=len(CLASSES),
    channels=64,
    fc_channels=256,
    anchor_scale=4.0,
    rpn_samples=128,
    roi_samples=128,
    proposals=Spec(ProposalSettings, before_nms=300, count=300),
)
task = Spec(DetectionTask, classes=CLASSES, iou_thresholds=[0.5, 0.75])

# data sets of different seeds share no scene
train = scenes(4000, seed=1)
augment = Spec(light_augment, size=SIZE, scale=[0.8, 1.25])
val = scenes(40, seed=2)
test = scenes(200, seed=3)

optimizer = adamw_cosine(lr=1e-3, weight_decay=0.05, warmup=100)
iterations = 800
batch_size = 8
num_workers = 1
val_every = 200
checkpoint_every = 400
ema = 0.995
clip_norm = 10.0
channels_last = True
seed = 0
