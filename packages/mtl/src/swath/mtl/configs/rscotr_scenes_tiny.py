"""A small RSCoTr on scenes that are annotated for one task each: what `swath demo mtl` trains.

Run:     swath train rscotr_scenes_tiny
Source:  ours; nothing to download
Expect:  see benchmarks/results/mtl_cotraining.json
"""

from swath.mtl.configs import _scenes

model = _scenes.model()
task = _scenes.task()
train = _scenes.data(seed=1, count=4000, augmented=True)
val = _scenes.data(seed=2, count=48)
test = _scenes.data(seed=3, count=96)

optimizer = _scenes.optimizer()
iterations = 900
batch_size = 8
num_workers = 1
val_every = 300
checkpoint_every = 300
log_every = 30
clip_norm = 1.0
find_unused_parameters = True
seed = 0

card = {
    "title": "Small RSCoTr, trained on synthetic scenes",
    "data": "scenes-v1, domain temperate, rendered on the spot; no real imagery",
    "licence": "Apache-2.0",
    "use": "Shows how everything fits together; it has never seen a real image",
}
