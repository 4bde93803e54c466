"""CAT-Seg with cost maps of four directions on DLRSD, 30,000 steps.

Run:     swath train catseg_rotated_vitb_dlrsd
Source:  OVRS, Cao et al. 2024, arXiv:2409.07683; caoql98/OVRS, without its two gates (3,890
         parameters)
Expect:  not run here: it needs the data, the towers' weights and a GPU. 154,308,194
         parameters, 25,134,689 of them trained
"""

from swath.core.spec import Spec
from swath.ovseg.augment import published_augment
from swath.ovseg.configs._published import data, from_towers, published_task
from swath.ovseg.models.rskt_seg import rskt_seg
from swath.ovseg.optimizers import open_vocabulary_adamw

model = from_towers(
    rskt_seg,
    "b",
    specialist=False,
    num_layers=2,
    use_efficient=False,
    use_remote_clip=False,
    use_remote_dino=False,
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
    "title": "CAT-Seg with four directions, CLIP ViT-B/16",
    "data": "DLRSD by the split of OVRSISBench",
    "paper": "OVRS, Cao et al. 2024, arXiv:2409.07683",
}
