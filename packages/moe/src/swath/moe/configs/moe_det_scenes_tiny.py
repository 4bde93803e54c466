"""MoE-MDF detection in small: one ViT from scratch on two kinds of scenes with other classes each.

Run:     swath train moe_det_scenes_tiny
Source:  ours; the method of Lv et al. 2025 (S5)
Expect:  not run to its end here
"""

from swath.core.data.scenes import SceneObjects
from swath.core.data.transforms import light_augment
from swath.core.detection.task import DetectionTask
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.moe.data import MultiDataset
from swath.moe.detection_task import MultiDatasetDetectionTask
from swath.moe.models.mdf_detector import MDFDetector
from swath.moe.models.oriented_rcnn import ProposalSettings
from swath.moe.models.vit_moe import ViTMoE

DOMAINS = {
    "urban": ["building", "court", "tank", "vehicle"],
    "coastal": ["ship", "vehicle", "building"],
}
SIZE = 128


def scenes(count: int, seed: int, repeat: bool = False) -> Spec:
    """So many scenes of every domain."""
    parts = {
        name: Spec(SceneObjects, classes=classes, size=SIZE, count=count, seed=seed, domain=name)
        for name, classes in DOMAINS.items()
    }
    return Spec(MultiDataset, parts=parts, repeat=repeat)


model = Spec(
    MDFDetector,
    backbone=Spec(
        ViTMoE,
        num_experts=len(DOMAINS),
        part_features=32,
        img_size=SIZE,
        patch_size=8,
        embed_dims=96,
        num_layers=4,
        num_heads=3,
        out_indices=[0, 1, 2, 3],
        drop_path_rate=0.0,
    ),
    tasks={name: len(classes) for name, classes in DOMAINS.items()},
    channels=48,
    fc_channels=128,
    anchor_scale=8.0,  # strides are half of a patch of 16's
    rpn_samples=128,
    roi_samples=128,
    proposals=Spec(ProposalSettings, before_nms=300, count=300),
)
task = Spec(
    MultiDatasetDetectionTask,
    tasks={
        name: Spec(DetectionTask, classes=classes, iou_thresholds=[0.5, 0.75])
        for name, classes in DOMAINS.items()
    },
)

# data sets of different seeds share no scene
train = scenes(2000, seed=1, repeat=True)
augment = Spec(light_augment, size=SIZE, scale=[0.8, 1.25])
val = scenes(20, seed=2)
test = scenes(100, seed=3)

optimizer = adamw_cosine(lr=1e-3, weight_decay=0.05, warmup=50)
iterations = 600
batch_size = 8
num_workers = 1
val_every = 300
checkpoint_every = 300
ema = 0.99
clip_norm = 10.0
seed = 0

card = {
    "title": "Small MoE-MDF detector, trained on two kinds of synthetic scenes",
    "data": "scenes-v1, domains urban and coastal, rendered on the spot",
    "licence": "Apache-2.0",
    "use": "Shows how one detector learns several data sets; it has never seen a real image",
}
