"""SED with CLIP ConvNeXt-B on DLRSD, 30,000 steps.

Run:     swath train sed_convnextb_dlrsd
Source:  SED, Xie et al. 2024, arXiv:2311.15537; xb534/SED, configs/convnextB_768, which trains on
         COCO-Stuff for 80,000 steps; data and steps as RSKT-Seg's comparison has them
Expect:  not run here: it needs the data, the tower's weights and a GPU. 180,761,741
         parameters, 89,598,220 of them trained
"""

from swath.core.spec import Spec
from swath.ovseg.augment import published_augment
from swath.ovseg.configs._published import WEIGHTS, data, published_task
from swath.ovseg.models.sed import sed
from swath.ovseg.models.towers import pretrained
from swath.ovseg.optimizers import open_vocabulary_adamw
from swath.ovseg.protocols import PublishedProtocol

model = Spec(
    pretrained,
    model=Spec(sed, size="b"),
    weights={"clip": f"{WEIGHTS}/convnext_base_w_320.bin"},
)
task = published_task("ovrsis-dlrsd", slide=False)
task["ensemble"] = "imagenet"
task["tile"] = 768
task["evaluation"] = Spec(PublishedProtocol, pad_to=1)

train = data("ovrsis-dlrsd", "train", "DLRSD_split")
val = data("ovrsis-dlrsd", "val", "DLRSD_split")
augment = Spec(published_augment, size=768, shortest_edge=[768], ignore_index=255)

optimizer = open_vocabulary_adamw(lr=2e-4, weight_decay=1e-4, clip_multiplier=0.01)
iterations = 30_000
batch_size = 4
clip_norm = 0.01
num_workers = 8
val_every = 5000
checkpoint_every = 5000

card = {
    "title": "SED, CLIP ConvNeXt-B",
    "data": "DLRSD by the split of OVRSISBench",
    "paper": "SED, Xie et al. 2024, arXiv:2311.15537",
}
