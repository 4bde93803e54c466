"""GSNet with CLIP ViT-B/16 on LandDiscover50K, 30,000 steps.

Run:     swath train gsnet_vitb_landdiscover
Source:  GSNet, Ye et al. 2025, arXiv:2412.19492; yecy749/GSNet, configs/vitb_384.yaml
Expect:  not run here: it needs the data, the towers' weights and a GPU. 243,988,242
         parameters, 29,006,865 of them trained
"""

from swath.core.spec import Spec
from swath.ovseg.augment import published_augment
from swath.ovseg.configs._published import data, from_towers, published_task
from swath.ovseg.models.gsnet import gsnet
from swath.ovseg.optimizers import open_vocabulary_adamw

model = from_towers(
    gsnet,
    "b",
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
    "title": "GSNet, CLIP ViT-B/16",
    "data": "LandDiscover50K",
    "paper": "GSNet, Ye et al. 2025, arXiv:2412.19492",
}
