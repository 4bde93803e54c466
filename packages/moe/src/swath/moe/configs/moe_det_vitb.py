"""MoE-MDF of ViT-B with Oriented R-CNN on DIOR-R and DOTA-v2.0, 12 epochs.

Run:     swath data prepare dota RAW $SWATH_DATA/dota
         torchrun --nproc-per-node 4 --no-python swath train moe_det_vitb
         (2 images of each set for each of 4 GPUs; on one, --set accumulate=4; an epoch is a pass
         over the longer set: where DOTA's tiles are more than DIOR-R's 11,725 images, --set
         iterations=N with N = 12 * tiles / 8)
         `swath test` gives DOTA's AP tile by tile. That of whole scenes, as published, and the
         archive for its server: swath moe dota CHECKPOINT RAW/val/images --labels RAW/val/labelTxt
         --out val.zip
Source:  S5, Lv et al. 2025, arXiv:2508.12409; MiliLab/S5, RS_Finetune/Object_Detection,
         configs/obb/oriented_rcnn/mtd. There DIOR-R is read in one fixed order, here shuffled; the
         heads begin as Oriented R-CNN's do, not as torch leaves them; the position embedding decays
Expect:  not run here: it needs the two sets and GPUs. 140,642,652 parameters at 1024 px
"""

from swath.core.engine.pieces import adamw_steps
from swath.core.spec import Spec
from swath.moe.augment import mdf_detection_augment
from swath.moe.configs._s5_detection import (
    DIOR_TRAINVAL,
    data_set,
    from_s4p,
    two_tasks,
    two_training_sets,
)
from swath.moe.data import MultiDataset

model = from_s4p("b")
task = two_tasks()

train = two_training_sets()
augment = Spec(mdf_detection_augment, size=1024)
val = Spec(MultiDataset, parts={"dior": data_set("dior", "test")}, repeat=False)  # as officially
test = Spec(
    MultiDataset,
    parts={"dior": data_set("dior", "test"), "dota": data_set("dota", "val")},
    repeat=False,
)

optimizer = adamw_steps(
    lr=1e-4, milestones=[8 / 12, 11 / 12], weight_decay=0.05, warmup=500, no_decay_norms=False
)
iterations = 12 * (DIOR_TRAINVAL // 8)
batch_size = 4
num_workers = 8
val_every = DIOR_TRAINVAL // 8
checkpoint_every = DIOR_TRAINVAL // 8
precision = "fp16"
clip_norm = 35.0

card = {
    "title": "S5 MoE-MDF ViT-B with two Oriented R-CNN heads, 1024 px",
    "data": "DIOR-R, DOTA-v2.0; S4P weights",
    "paper": "S5, Lv et al. 2025, arXiv:2508.12409",
}
