"""RemoteSAM in small, from scratch on synthetic scenes: it learns what sentences mean.

Run:     swath train remotesam_scenes_tiny
Source:  ours; the network of Yao et al. 2025 (RemoteSAM)
Expect:  see benchmarks/results/refseg_scenes.json
"""

from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.refseg.data.scenes import VOCABULARY, SceneSentences
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.task import ReferringTask
from swath.refseg.text import WordPieces

SIZE = 96

model = Spec(
    RemoteSAM,
    embed_dim=16,
    depths=[2, 2, 2, 2],
    num_heads=[1, 2, 4, 8],
    window_size=4,
    grid=3,
    drop_path_rate=0.0,
    bert={
        "vocab_size": len(VOCABULARY),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
)
task = Spec(
    ReferringTask,
    tokenizer=Spec(WordPieces, vocabulary=list(VOCABULARY)),
    input_size=SIZE,
    dice_weight=0.5,
    dice_reduction="mean",
    object_weight=1.5,
)

# sets of different seeds share no scene
shares = {"object": 0.5, "class": 0.3, "colour": 0.15, "nothing": 0.05}
train = Spec(SceneSentences, size=SIZE, count=64_000, seed=1, shares=shares, sentences=4)
val = Spec(SceneSentences, size=SIZE, count=96, seed=2)
test = Spec(SceneSentences, size=SIZE, count=600, seed=3)
del shares

optimizer = adamw_cosine(lr=2e-3, weight_decay=0.02, warmup=60)
iterations = 1100
batch_size = 32
num_workers = 1
val_every = 275
checkpoint_every = 275
ema = 0.99
clip_norm = 1.0
find_unused_parameters = True
seed = 0

card = {
    "title": "Small RemoteSAM, trained on synthetic scenes",
    "data": "scenes-v1, domain temperate, rendered on the spot; no real imagery",
    "licence": "Apache-2.0",
    "use": "Shows that the network learns language; it has never seen a real image",
}
