"""A Swin-T classifier on RESISC45, alone: a specialist of the same parts.

Run:     SWATH_DATA=<folder> swath train rscotr_cls_swint_resisc
Source:  official configs/multi, MTL_slvlcls_swin-t-p4-w7_1x1_resisc
Expect:  not run at full size here
"""

from swath.core.spec import Spec
from swath.mtl.configs import _published
from swath.mtl.optim import CoTrainingAdamW

NAMES = ["cls/resisc"]

model = _published.model(NAMES)
task = _published.task(NAMES)
train = _published.training(NAMES)
val = _published.judged(NAMES)
test = _published.judged(NAMES, test=True)

optimizer = Spec(CoTrainingAdamW, lr=2e-4, weight_decay=1e-4, milestones=[0.75])
iterations = 80_000
batch_size = 2
num_workers = 4
val_every = 400
checkpoint_every = 400
log_every = 100
clip_norm = 0.1

card = {"title": "A Swin-T classifier on RESISC45", "data": "NWPU-RESISC45"}
