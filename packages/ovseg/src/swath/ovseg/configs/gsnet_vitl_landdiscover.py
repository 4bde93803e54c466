"""GSNet with CLIP ViT-L/14 at 336 px on LandDiscover50K, 30,000 steps.

Run:     swath train gsnet_vitl_landdiscover
Source:  GSNet, Ye et al. 2025, arXiv:2412.19492; yecy749/GSNet, configs/vitb_384.yaml
         (which has B/16 only; the same recipe)
Expect:  not run here: it needs the data, the towers' weights and a GPU. 524,212,498
         parameters, 74,947,857 of them trained
"""

from swath.core.spec import Spec
from swath.ovseg.augment import published_augment
from swath.ovseg.configs._published import data, from_towers, published_task
from swath.ovseg.models.gsnet import gsnet
from swath.ovseg.optimizers import open_vocabulary_adamw

model = from_towers(
    gsnet,
    "l",
)
task = published_task("landdiscover50k", slide=True)

train = data("landdiscover50k")
augment = Spec(published_augment, size=384, ignore_index=0)

optimizer = open_vocabulary_adamw(lr=2e-4, weight_decay=1e-4, clip_multiplier=0.01)
iterations = 30_000
batch_size = 4
clip_norm = 0.01
num_workers = 8
val_every = 5000
checkpoint_every = 5000

card = {
    "title": "GSNet, CLIP ViT-L/14 at 336 px",
    "data": "LandDiscover50K",
    "paper": "GSNet, Ye et al. 2025, arXiv:2412.19492",
}
