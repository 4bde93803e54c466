"""One data set, LoveDA, learnt by a plain ViT with UPerNet: what MoE-MDF is compared with.

Run:     swath convert vit_b_s4p_upernet.pth --model s4p-vit-b -o s4p_vit_b.safetensors
         torchrun --nproc-per-node 2 --no-python swath train single_seg_loveda
         (larger: --set model.size=l --set init_from=s4p_vit_l.safetensors)
         LoveDA trains on its validation images too and is judged by the server of its authors:
         swath predict CHECKPOINT $SWATH_DATA/loveda/Test/*/images_png/*.png --out Result
         --ending .png
         `swath test` judges by the validation images: its figures count only when the training
         leaves these out, --set train.split=train
Source:  S5, Lv et al. 2025, arXiv:2508.12409, columns "Single"; the recipe of `moe_seg_vitb`, since
         the authors publish no other
Expect:  not run here: it needs the data and GPUs
"""

from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.moe.augment import mdf_augment
from swath.moe.configs._s5_segmentation import data_set, single

_baseline = single("loveda")
model, task, train = (_baseline[part] for part in ("model", "task", "train"))
augment = Spec(mdf_augment, size=512, scale=[0.5, 2.0])
test = data_set("loveda", "val")

optimizer = adamw_cosine(lr=5e-5, weight_decay=0.05, no_decay_norms=False)
iterations = 52_900
batch_size = 12
num_workers = 8
val_every = 529
checkpoint_every = 529
precision = "fp16"
sync_batchnorm = True
init_from = "s4p_vit_b.safetensors"  # everything but the head, whose classes are others
