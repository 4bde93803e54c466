"""RSCoTr's segmenter on Potsdam IRRG, alone: a specialist of the same parts.

Run:     SWATH_DATA=<folder> swath train rscotr_seg_swint_potsdam
Source:  official configs/multi, single-task segmentation; 80,000 iterations
Expect:  not run at full size here
"""

from swath.core.spec import Spec
from swath.mtl.configs import _published
from swath.mtl.optim import CoTrainingAdamW

NAMES = ["seg/potsdam"]

model = _published.model(NAMES)
task = _published.task(NAMES)
train = _published.training(NAMES)
val = _published.judged(NAMES)
test = _published.judged(NAMES, test=True)

optimizer = Spec(
    CoTrainingAdamW, lr=5e-5, weight_decay=1e-4, milestones=[0.75], lr_factors={"backbone": 0.1}
)
iterations = 80_000
batch_size = 2
num_workers = 4
val_every = 4_000
checkpoint_every = 4_000
log_every = 100
clip_norm = 0.1

card = {"title": "RSCoTr's segmenter on Potsdam IRRG", "data": "ISPRS Potsdam"}
