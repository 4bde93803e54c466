"""GSNet in small on synthetic scenes: taught names by masks, asked for others.

Run:     swath train clip_scenes_tiny && swath train gsnet_scenes_tiny
Source:  ours; the method of Ye et al. 2025 (GSNet)
Expect:  mIoU 56 % of names taught, 49 % of those of captions alone, 15 % of those that CLIP didn't
         know either, after 760 s of a busy core: means of seeds 3 and 4
         (benchmarks/results/ovseg_scenes.json)
"""

from swath.core.data.transforms import Dihedral
from swath.core.spec import Spec
from swath.ovseg.configs._scenes import DINO, FUSED, crops, from_clip
from swath.ovseg.configs._scenes import task as _task
from swath.ovseg.models.gsnet import GSNet
from swath.ovseg.optimizers import open_vocabulary_muon

model = from_clip(GSNet, specialist=DINO, aggregator=FUSED, dino_taps=[0, 1], dino_finetune="full")
task = _task()

train = crops(seed=1, count=8192)
augment = Spec(Dihedral)
val = crops(seed=2, count=64)
test = crops(seed=3, count=256)

optimizer = open_vocabulary_muon(lr=2e-3, weight_decay=1e-2, clip_multiplier=0.2)
iterations = 800
batch_size = 8
num_workers = 0
val_every = 400
checkpoint_every = 200
clip_norm = 1.0
seed = 0

card = {
    "title": "Small GSNet, trained on synthetic scenes",
    "data": "scenes-v1, rendered on the spot",
    "licence": "Apache-2.0",
    "use": "Shows that words can be classes; it has never seen a real image",
}
