"""RemoteSAM in small, from scratch on synthetic scenes: it learns what sentences mean.

Run:     swath train remotesam_scenes_tiny
Source:  ours; the network of Yao et al. 2025 (RemoteSAM)
Expect:  oIoU 0.66 on 600 sentences about unseen scenes, 0.23 with sentences of other images; 31
         minutes of a core's time (benchmarks/results/refseg_scenes.json)
"""

from swath.core.engine.pieces import muon_cosine
from swath.core.spec import Spec
from swath.refseg.data.scenes import VOCABULARY, SceneSentences
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.task import ReferringTask
from swath.refseg.text import WordPieces

SIZE = 64

model = Spec(
    RemoteSAM,
    embed_dim=24,
    depths=[3, 1, 1, 1],  # most of the depth where all sentences about an image share it
    num_heads=[1, 2, 4, 8],
    window_size=[8, 9, 5, 3],  # from the second stage on all of the map, and a row of padding
    grid=2,
    drop_path_rate=0.0,
    decoder_width=32,
    bert={
        "vocab_size": len(VOCABULARY),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        # with BERT's 0.02, what all words have in common grows faster than what tells them apart
        "initializer_range": 0.15,
    },
)
task = Spec(
    ReferringTask,
    tokenizer=Spec(WordPieces, vocabulary=list(VOCABULARY)),
    input_size=SIZE,
    dice_weight=0.5,
    dice_reduction="mean",
    object_weight=1.5,
    word_weight=0.2,
    words_first=0.3,
)

# sets of different seeds share no scene
scenes = {"size": SIZE, "empty_scenes": False}
train = Spec(
    SceneSentences,
    count=120_000,
    seed=1,
    shares={"object": 0.6, "class": 0.2, "colour": 0.1, "nothing": 0.1},
    sentences=6,
    words=True,
    **scenes,
)
val = Spec(SceneSentences, count=150, seed=2, sentences=3, **scenes)
test = Spec(SceneSentences, count=600, seed=3, sentences=3, **scenes)
del scenes

optimizer = muon_cosine(lr=2e-3, weight_decay=0.02, warmup=40, betas=(0.9, 0.99))
iterations = 3200
batch_size = 36
num_workers = 1
val_every = 800
checkpoint_every = 100
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
