"""MoE-MDF in small: one ViT from scratch on four kinds of synthetic scenes with other classes each.

Run:     swath train moe_seg_scenes_tiny
Source:  ours; the method of Lv et al. 2025 (S5)
Expect:  mIoU 0.30 on unseen scenes (temperate 0.40, arid 0.31, coastal 0.20, urban 0.28) after 600
         steps, 14 minutes of a core that had eight other jobs
"""

from swath.core.data.scenes import CLASS_SETS, SceneDataset
from swath.core.data.transforms import light_augment
from swath.core.engine.pieces import adamw_cosine
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.moe.data import MultiDataset
from swath.moe.models.mdf import MDFSegmenter
from swath.moe.models.vit_moe import ViTMoE
from swath.moe.task import MultiDatasetSegmentationTask

DOMAINS = {"temperate": "landcover", "arid": "landcover", "coastal": "objects", "urban": "urban"}
SIZE = 64


def domain_task(class_set: str) -> Spec:
    """What the masks of a domain mean."""
    chosen = CLASS_SETS[class_set]
    palette = [list(colour) for colour in chosen.palette]
    return Spec(SegmentationTask, classes=list(chosen.classes), palette=palette)


def scenes(count: int, seed: int, repeat: bool = False) -> Spec:
    """So many scenes of every domain."""
    parts = {
        name: Spec(
            SceneDataset, size=SIZE, count=count, seed=seed, domain=name, class_set=class_set
        )
        for name, class_set in DOMAINS.items()
    }
    return Spec(MultiDataset, parts=parts, repeat=repeat)


model = Spec(
    MDFSegmenter,
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
    tasks={name: len(CLASS_SETS[class_set].classes) for name, class_set in DOMAINS.items()},
    width=32,
)
task = Spec(
    MultiDatasetSegmentationTask,
    tasks={name: domain_task(class_set) for name, class_set in DOMAINS.items()},
)

# data sets of different seeds share no scene
train = scenes(1000, seed=1, repeat=True)
augment = Spec(light_augment, size=SIZE, scale=[0.75, 1.5])
val = scenes(12, seed=2)
test = scenes(50, seed=3)

optimizer = adamw_cosine(lr=1.5e-3, weight_decay=0.05, warmup=50)
iterations = 600
batch_size = 16
num_workers = 1
val_every = 300
checkpoint_every = 300
ema = 0.99
clip_norm = 1.0
seed = 0

card = {
    "title": "Small MoE-MDF segmenter, trained on four kinds of synthetic scenes",
    "data": "scenes-v1, domains temperate, arid, coastal and urban, rendered on the spot",
    "licence": "Apache-2.0",
    "use": "Shows how one model learns several data sets; it has never seen a real image",
}
