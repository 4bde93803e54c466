"""RSKT-Seg with CLIP ViT-B/16 on iSAID, 3 layers, 30,000 steps.

Run:     swath train rskt_seg_vitb_isaid
Source:  RSKT-Seg, Li et al. 2025, arXiv:2509.12040;
         LiBingyu01/RSKT-Seg, configs/vitb_384_iSAID; layers of the released file
Expect:  not run here: it needs the data, the towers' weights and a GPU. 398,896,835
         parameters, 32,638,145 of them trained
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
    num_layers=3,
)
task = published_task("ovrsis-isaid", slide=False)

train = data("ovrsis-isaid", "train", "iSAID_split")
val = data("ovrsis-isaid", "val", "iSAID_split")
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
    "data": "iSAID by the split of OVRSISBench",
    "paper": "RSKT-Seg, Li et al. 2025, arXiv:2509.12040",
}
