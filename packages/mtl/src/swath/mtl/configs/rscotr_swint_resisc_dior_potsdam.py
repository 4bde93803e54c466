"""RSCoTr on RESISC45, DIOR and Potsdam IRRG together, round robin: the published recipe.

Run:     SWATH_DATA=<folder> swath train rscotr_swint_resisc_dior_potsdam --init-tasks <detector>
         the detector is a DINO Swin-T trained on DIOR, in mmdet's layout or ours (from
         rscotr_det_swint_dior); without it, detection starts from scratch
Source:  Li et al. 2024, 10.1109/TGRS.2024.3354783; official configs/multi, single-level
         classification, task weights 1, 1, 0.1, 300,000 iterations; idle heads move as officially
Expect:  not run at full size here; no figures of the publication could be reached
"""

from swath.core.spec import Spec
from swath.mtl.configs import _published
from swath.mtl.optim import CoTrainingAdamW

model = _published.model()
task = _published.task(weights={"cls": 1.0, "det": 1.0, "seg": 0.1})
train = _published.training()
val = _published.judged()
test = _published.judged(test=True)

optimizer = Spec(
    CoTrainingAdamW,
    lr=5e-5,
    weight_decay=1e-4,
    milestones=[0.8, 0.95],
    lr_factors={"backbone": 0.1},
    idle="zero",
)
iterations = 300_000
batch_size = 2  # to judge with; each training set has its own
num_workers = 4
val_every = 15_000
checkpoint_every = 5_000
log_every = 300
clip_norm = 0.1
find_unused_parameters = True

card = {
    "title": "RSCoTr Swin-T on RESISC45, DIOR and Potsdam IRRG",
    "data": "NWPU-RESISC45, DIOR, ISPRS Potsdam",
}
