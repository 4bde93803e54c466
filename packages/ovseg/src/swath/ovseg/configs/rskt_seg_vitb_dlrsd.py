"""RSKT-Seg with CLIP ViT-B/16 on DLRSD, 5 layers, 30,000 steps.

Run:     swath train rskt_seg_vitb_dlrsd
Source:  RSKT-Seg, Li et al. 2025, arXiv:2509.12040;
         LiBingyu01/RSKT-Seg, configs/vitb_384_DLRSD; layers of the released file
Expect:  not run here: it needs the data, the towers' weights and a GPU. 400,558,019
         parameters, 34,299,329 of them trained
"""

from swath.core.spec import Spec
from swath.ovseg.augment import published_augment
from swath.ovseg.configs._published import data, from_towers, published_task
from swath.ovseg.models.rskt_seg import rskt_seg
from swath.ovseg.optimizers import open_vocabulary_adamw

model = from_towers(
    rskt_seg,
    "b",
    remote=True,
    num_layers=5,
)
task = published_task("ovrsis-dlrsd", slide=False)

train = data("ovrsis-dlrsd", "train", "DLRSD_split")
val = data("ovrsis-dlrsd", "val", "DLRSD_split")
augment = Spec(published_augment, size=384, ignore_index=255)

optimizer = open_vocabulary_adamw(lr=2e-4, weight_decay=1e-4, clip_multiplier=0.01)
iterations = 30_000
batch_size = 8
clip_norm = 0.01
num_workers = 8
val_every = 5000
checkpoint_every = 5000

card = {
    "title": "RSKT-Seg, CLIP ViT-B/16",
    "data": "DLRSD by the split of OVRSISBench",
    "paper": "RSKT-Seg, Li et al. 2025, arXiv:2509.12040",
}
