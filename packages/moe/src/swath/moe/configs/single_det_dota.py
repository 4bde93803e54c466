"""One data set, DOTA-v2.0, learnt by a plain ViT with Oriented R-CNN, to compare MoE-MDF with.

Run:     torchrun --nproc-per-node 4 --no-python swath train single_det_dota
         (larger: --set model.size=l --set model.weights=$SWATH_DATA/weights/vit_l_s4p.pth)
         `swath test` gives the AP tile by tile. That of whole scenes, as published, and the archive
         for DOTA's server: swath moe dota CHECKPOINT RAW/val/images --labels RAW/val/labelTxt
         --out val.zip
Source:  S5, Lv et al. 2025, arXiv:2508.12409, columns "Single"; the recipe of `moe_det_vitb`, since
         the authors publish no other
Expect:  not run here: it needs the data and GPUs
"""

from swath.core.engine.pieces import adamw_steps
from swath.core.spec import Spec
from swath.moe.augment import mdf_detection_augment
from swath.moe.configs._s5_detection import DIOR_TRAINVAL, single

_baseline = single("dota")
model, task, train, test = (_baseline[part] for part in ("model", "task", "train", "test"))
augment = Spec(mdf_detection_augment, size=1024)
val = test

optimizer = adamw_steps(
    lr=1e-4, milestones=[8 / 12, 11 / 12], weight_decay=0.05, warmup=500, no_decay_norms=False
)
iterations = 12 * (DIOR_TRAINVAL // 8)
batch_size = 2
num_workers = 8
val_every = DIOR_TRAINVAL // 8
checkpoint_every = DIOR_TRAINVAL // 8
precision = "fp16"
clip_norm = 35.0
