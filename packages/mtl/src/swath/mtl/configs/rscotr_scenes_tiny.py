"""A small RSCoTr on scenes that are annotated for one task each: what `swath demo mtl` trains.

Run:     swath train rscotr_scenes_tiny
Source:  ours; nothing to download
Expect:  at three other seeds, after 380 s of a busy core: top-1 68 to 69, AP50 31 to 39, mF1 63 to
         67 % on 300 unseen scenes (benchmarks/mtl_cotraining.py)
"""

from swath.mtl.configs import _scenes

model = _scenes.model()
task = _scenes.task()
train = _scenes.training(seed=50)
val = _scenes.judged(seed=51, count=40)
test = _scenes.judged(seed=52, count=100)

optimizer = _scenes.optimizer()
iterations = 1600
batch_size = 8
num_workers = 0  # scenes are kept once rendered
val_every = 800
checkpoint_every = 400
log_every = 40
clip_norm = 1.0
find_unused_parameters = True
seed = 0

card = {
    "title": "Small RSCoTr, trained on synthetic scenes",
    "data": "scenes-v1, domain coastal, rendered on the spot; no real imagery",
    "licence": "Apache-2.0",
    "use": "Shows how everything fits together; it has never seen a real image",
}
