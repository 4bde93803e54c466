"""MoE-MDF of ViT-H on Vaihingen, Potsdam, OpenEarthMap and LoveDA, 100 epochs.

Run:     torchrun --nproc-per-node 2 --no-python swath train moe_seg_vith
         (12 images of each set for each of 2 GPUs; on one, --set accumulate=2; from your own S4P
         run, --set model.weights=runs/.../best.safetensors)
         LoveDA trains on its validation images too and isn't validated. Maps for its server:
         swath predict CHECKPOINT $SWATH_DATA/loveda/Test/*/images_png/*.png --task loveda
         --out Result --ending .png
Source:  S5, Lv et al. 2025, arXiv:2508.12409; MiliLab/S5, RS_Finetune/Semantic_Segmentation,
         configs/rsseg.yaml and md_finetune.py. There the rate falls from epoch to epoch, here from
         step to step
Expect:  not run here: it needs the four sets and GPUs. 824,451,358 parameters
"""

from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.moe.augment import mdf_augment
from swath.moe.configs._s5_segmentation import (
    four_tasks,
    four_training_sets,
    from_s4p,
    validation_sets,
)

model = from_s4p("h")
task = four_tasks()

train = four_training_sets()
augment = Spec(mdf_augment, size=512, scale=[0.5, 2.0])
val = validation_sets()
test = validation_sets()

# no layer decay and no exception from decay: as the official rules turn out to act
optimizer = adamw_cosine(lr=5e-5, weight_decay=0.05, no_decay_norms=False)
iterations = 52_900  # 100 epochs of 529: 12,696 images of each set, 12 on each of 2 GPUs
batch_size = 48
num_workers = 8
val_every = 529
checkpoint_every = 529
precision = "fp16"
sync_batchnorm = True

card = {
    "title": "S5 MoE-MDF ViT-H with four UPerNets, 512 px",
    "data": "ISPRS Vaihingen and Potsdam, OpenEarthMap, LoveDA (CC-BY-NC-SA-4.0); S4P weights",
    "paper": "S5, Lv et al. 2025, arXiv:2508.12409",
}
