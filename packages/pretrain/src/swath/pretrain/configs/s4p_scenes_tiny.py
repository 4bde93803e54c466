"""S4P in small: a U-Net from scratch on 20 labelled and 320 unlabelled scenes.

Run:     swath train s4p_scenes_tiny
Source:  ours; the method of Lv et al. 2025 (S5), the recipe of benchmarks/s4p_label_efficiency.py
Expect:  mIoU of 63 to 65 on unseen scenes by seed, 58 to 63 without the unlabelled ones
         (benchmarks/s4p_label_efficiency.py)
"""

from swath.core.data.scenes import CLASS_SETS, SceneDataset
from swath.core.engine.pieces import muon_cosine
from swath.core.models.unet import UNet
from swath.core.spec import Spec
from swath.pretrain.semi_supervised import SemiSupervised
from swath.pretrain.task import S4PTask
from swath.pretrain.views import S4PViews

CLASS_SET = CLASS_SETS["covers"]


def scenes(count: int, seed: int) -> Spec:
    """Scenes with land-cover masks, in much the same light; of one seed, the first are the same."""
    return Spec(SceneDataset, size=96, count=count, seed=seed, class_set="covers", spread=0.15)


model = Spec(
    UNet, in_channels=3, num_classes=len(CLASS_SET.classes), width=16, depth=4, stem_stride=2
)
task = Spec(
    S4PTask,
    classes=list(CLASS_SET.classes),
    palette=[list(colour) for colour in CLASS_SET.palette],
    # with a threshold, classes that it is never sure of give way; weights hold the rare ones
    threshold=0.0,
    class_weights=[0.55, 1.8, 0.65, 0.85, 1.15],
    warmup=0.25,
    teacher="ema",
)

# the masks of the unlabelled scenes are there, and not looked at
train = Spec(SemiSupervised, labelled=scenes(20, seed=1), unlabelled=scenes(320, seed=1))
augment = Spec(S4PViews, size=64, scale=[0.75, 1.5], strength=0.2)
val = scenes(48, seed=2)
test = scenes(200, seed=3)

optimizer = muon_cosine(lr=3e-3, weight_decay=0.01, warmup=50)
iterations = 1000
batch_size = 8
num_workers = 1
val_every = 500
checkpoint_every = 500
ema = 0.99
channels_last = True
seed = 0

card = {
    "title": "Small U-Net, trained by S4P on synthetic scenes",
    "data": "scenes-v1, domain temperate, rendered on the spot: 20 labelled, 320 unlabelled",
    "licence": "Apache-2.0",
    "use": "Shows what unlabelled scenes bring; it has never seen a real image",
}
