"""RSCoTr whose classification uses the shared encoder too: the published multi-level variant.

Run:     SWATH_DATA=<folder> swath train rscotr_mlvl_swint_resisc_dior_potsdam
Source:  Li et al. 2024, 10.1109/TGRS.2024.3354783; official configs/multi. There, five mask queries
         make the first step fail with Potsdam's clutter as a sixth label: six here; the backbone's
         rate isn't lowered, and all task weights are 1
Expect:  not run at full size here
"""

from swath.core.spec import Spec
from swath.mtl.configs import _published
from swath.mtl.optim import CoTrainingAdamW

model = _published.model(multi_level=True, mask_queries=6)
task = _published.task(
    score_weights={"cls/resisc/top1": 2.0, "det/dior/mAP": 1.0, "seg/potsdam/mF1": 3.0}
)
train = _published.training()
val = _published.judged()
test = _published.judged(test=True)

optimizer = Spec(CoTrainingAdamW, lr=5e-5, weight_decay=1e-4, milestones=[0.8, 0.95], idle="zero")
iterations = 300_000
batch_size = 2
num_workers = 4
val_every = 15_000
checkpoint_every = 5_000
log_every = 300
clip_norm = 0.1
find_unused_parameters = True

card = {
    "title": "RSCoTr Swin-T, multi-level classification",
    "data": "NWPU-RESISC45, DIOR, ISPRS Potsdam",
}
