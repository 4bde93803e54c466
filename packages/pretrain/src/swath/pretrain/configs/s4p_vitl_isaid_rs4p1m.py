"""S4P pre-training of ViT-L: labelled iSAID, a million unlabelled scenes, 120,000 iterations.

Run:     torchrun --nproc-per-node 8 --no-python swath train s4p_vitl_isaid_rs4p1m
         (12 labelled and 12 unlabelled images and their partners for each of 8 GPUs; with fewer,
         --set accumulate=N; with your own lists, --set train.unlabelled.root=...
         --set train.unlabelled.list_file=...)
Source:  S5, Lv et al. 2025, arXiv:2508.12409; MiliLab/S5, S4_Pretrain/configs/pretrain.yaml
Expect:  not run here: it needs RS4P-1M and GPUs. 327,427,345 parameters
"""

from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.pretrain.configs._isaid_rs4p1m import from_mae, isaid, isaid_and_rs4p1m, s4p_task
from swath.pretrain.views import S4PViews

model = from_mae("l")
task = s4p_task()

train = isaid_and_rs4p1m()
augment = Spec(S4PViews, size=512, scale=[0.5, 2.0])
val = isaid("val")

# no exception from decay, no warm-up, no clipping: as the official rules turn out to act
optimizer = adamw_cosine(lr=5e-5, weight_decay=0.01, no_decay_norms=False)
iterations = 120_000
batch_size = 12
num_workers = 8
val_every = 2_000
checkpoint_every = 20_000
precision = "fp16"
sync_batchnorm = True
seed = 2025

card = {
    "title": "S4P pre-trained ViT-L with UPerNet, iSAID classes, 512 px",
    "data": "iSAID (CC-BY-NC-4.0) with labels, RS4P-1M without; MAE weights from MillionAID",
    "paper": "S5, Lv et al. 2025, arXiv:2508.12409",
}
