"""A small CLIP from scratch, on captions of synthetic scenes such as "red ship" and "water".

Run:     swath train clip_scenes_tiny
Source:  ours; CLIP, Radford et al. 2021, with targets for captions that repeat, Yang et al. 2022
Expect:  mIoU of its similarity map 30 % of the names that masks show too, 29 % of others in
         captions, 1 % of those kept back, after 510 s of a busy core: means of seeds 3 and 4
         (benchmarks/results/ovseg_scenes.json)
"""

from swath.core.data.transforms import Dihedral
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.ovseg.clip import CLIP as _CLIP
from swath.ovseg.configs._scenes import CLIP, CROP, crops
from swath.ovseg.contrastive import CaptionTask
from swath.ovseg.scenes import SEEN

model = Spec(_CLIP, **CLIP)
task = Spec(CaptionTask, classes=list(SEEN))

train = crops(seed=1, count=16_384, size=CROP, classes=SEEN)
augment = Spec(Dihedral)
val = crops(seed=2, count=256, size=CROP, classes=SEEN)
test = crops(seed=3, count=512, size=CROP, classes=SEEN)

optimizer = adamw_cosine(lr=2e-3, weight_decay=0.05, warmup=50)
iterations = 3000
batch_size = 64
num_workers = 0
val_every = 1000
checkpoint_every = 1000
clip_norm = 1.0
seed = 0

card = {
    "title": "Small CLIP, trained on captions of synthetic scenes",
    "data": "scenes-v1, rendered on the spot",
    "licence": "Apache-2.0",
    "use": "Towers of the small open-vocabulary models; it has never seen a real image",
}
