"""RemoteSAM as published: Swin-B and BERT on RemoteSAM-270K, 896 px, 40 epochs.

Run:     torchrun --nproc-per-node 8 --no-python swath train remotesam_swinb_270k
         with $SWATH_DATA/remotesam-270k (images, refs, instances.json) and, in
         $SWATH_DATA/weights, swin_base_patch4_window12_384_22k.pth and bert-base-uncased
Source:  Yao et al. 2025, arXiv:2505.18022; official `train.py` and README (dossier section 2)
Expect:  not run here. Official quirks that are kept: BERT's embeddings and last two layers stay as
         they are (optimizer.bert_layers=None trains them), Dice is summed over the batch
         (task.dice_reduction=mean)

273,676 triplets on 8 processes of batch 2: 17,105 steps an epoch.
"""

from swath.core.spec import Spec
from swath.refseg.data.refer import ReferDataset
from swath.refseg.models.remotesam import remotesam_from
from swath.refseg.optimizers import remotesam_adamw
from swath.refseg.task import ReferringTask
from swath.refseg.text import WordPieces

_ROOT = "$SWATH_DATA/remotesam-270k"

model = Spec(
    remotesam_from,
    size="b",
    checkpointing=True,
    swin="$SWATH_DATA/weights/swin_base_patch4_window12_384_22k.pth",
    bert="$SWATH_DATA/weights/bert-base-uncased/model.safetensors",
)
task = Spec(
    ReferringTask,
    tokenizer=Spec(WordPieces, vocabulary="$SWATH_DATA/weights/bert-base-uncased"),
    input_size=896,
    dice_weight=0.1,
    dice_reduction="sum",
)

train = Spec(ReferDataset, root=_ROOT, split="train", overlaps="none")
val = Spec(ReferDataset, root=_ROOT, split="val", overlaps="none")
test = Spec(
    ReferDataset,
    root="$SWATH_DATA/rrsisd",
    split="test",
    images="$SWATH_DATA/images/rrsisd/JPEGImages",
    sentences="all",
)

optimizer = remotesam_adamw(lr=3e-5, weight_decay=0.01, power=0.9)
iterations = 40 * 17_105
batch_size = 2
num_workers = 8
val_every = 17_105
checkpoint_every = 17_105
find_unused_parameters = True
sync_batchnorm = True
seed = 2401

card = {
    "title": "RemoteSAM, Swin-B, trained by the published recipe",
    "data": "RemoteSAM-270K",
    "licence": "that of the data and of the initial weights",
}
