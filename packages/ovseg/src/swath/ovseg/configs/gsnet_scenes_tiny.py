"""GSNet in small, from scratch, on synthetic scenes: pixels are scored against thirteen words.

Run:     swath train gsnet_scenes_tiny
Source:  ours; the method of Ye et al. 2025 (GSNet)
Expect:  not yet run to its end
"""

from swath.core.data.scenes import CLASSES, PALETTE, SceneDataset
from swath.core.data.transforms import light_augment
from swath.core.spec import Spec
from swath.ovseg.configs._scenes import CLIP, DINO, FUSED, GUIDANCE, SIZE
from swath.ovseg.models.gsnet import GSNet
from swath.ovseg.optimizers import open_vocabulary_adamw
from swath.ovseg.task import OpenVocabularyTask

model = Spec(
    GSNet,
    clip=CLIP,
    specialist=DINO,
    aggregator=FUSED,
    guidance_dims=GUIDANCE,
    taps=[0, 2],
    dino_taps=[0, 1],
    finetune="everything",
    dino_finetune="full",
)
task = Spec(
    OpenVocabularyTask,
    classes=list(CLASSES),
    palette=[list(colour) for colour in PALETTE],
    ensemble="name",  # a text tower from scratch hears the word alone
)

# data sets of different seeds share no scene
train = Spec(SceneDataset, size=SIZE, count=2000, seed=1)
augment = Spec(light_augment, size=SIZE, scale=[0.75, 1.5])
val = Spec(SceneDataset, size=SIZE, count=24, seed=2)
test = Spec(SceneDataset, size=SIZE, count=60, seed=3)

optimizer = open_vocabulary_adamw(lr=1e-3, weight_decay=1e-2, clip_multiplier=1.0)
iterations = 600
batch_size = 8
num_workers = 1
val_every = 200
checkpoint_every = 200
clip_norm = 1.0
seed = 0

card = {
    "title": "Small GSNet, trained on synthetic scenes",
    "data": "scenes-v1, rendered on the spot",
    "licence": "Apache-2.0",
    "use": "Shows that words can be classes; it has never seen a real image",
}
