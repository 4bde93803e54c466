"""A training loop of one's own: models, tasks, data and metrics don't need the engine."""

import torch

from swath.core.data.loader import make_loader
from swath.core.data.scenes import CLASSES, SceneDataset
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask

ITERATIONS = 20

torch.manual_seed(0)
task = SegmentationTask(CLASSES)
model = UNet(3, len(CLASSES), width=8, depth=3)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

training = SceneDataset(size=96, count=400, seed=1)
batches = iter(make_loader(training, task, batch_size=8, num_workers=0, shuffle=True))
for step in range(1, ITERATIONS + 1):
    losses = task.losses(model, next(batches))
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    if step % 5 == 0:
        print(step, {name: round(value.item(), 3) for name, value in losses.items()})

model.eval()
metrics = task.metrics()
unseen = SceneDataset(size=96, count=16, seed=2)
for batch in make_loader(unseen, task, batch_size=8, num_workers=0, shuffle=False):
    metrics.update(task.predict(model, batch), batch)
print("mIoU", round(metrics.compute()["mIoU"], 3))
