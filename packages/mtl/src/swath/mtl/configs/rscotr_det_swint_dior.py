"""DINO Swin-T on DIOR, alone: a specialist of the same parts.

Run:     SWATH_DATA=<folder> swath train rscotr_det_swint_dior
Source:  official configs/det, 50 epochs of 5,862 images, the rate lowered after 45; there norms and
         position biases aren't decayed
Expect:  not run at full size here
"""

from swath.core.spec import Spec
from swath.mtl.configs import _published
from swath.mtl.optim import CoTrainingAdamW

NAMES = ["det/dior"]

model = _published.model(NAMES)
task = _published.task(NAMES)
train = _published.training(NAMES)
val = _published.judged(NAMES)
test = _published.judged(NAMES, test=True)

optimizer = Spec(
    CoTrainingAdamW, lr=5e-5, weight_decay=1e-4, milestones=[0.9], lr_factors={"backbone": 0.1}
)
iterations = 293_100
batch_size = 2
num_workers = 4
val_every = 29_310
checkpoint_every = 29_310
log_every = 100
clip_norm = 0.1

card = {"title": "DINO Swin-T on DIOR", "data": "DIOR"}
