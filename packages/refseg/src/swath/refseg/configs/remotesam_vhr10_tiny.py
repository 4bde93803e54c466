"""The small RemoteSAM on real images: sentences about NWPU VHR-10.

Run:     SWATH_DATA=<folder> swath train remotesam_vhr10_tiny --set init_from=<scenes weights>
         with images/, instances.json (COCO) and refs.json, a list of sentences as `SentenceList`
         reads it, in $SWATH_DATA/vhr10-refs; benchmarks/refseg_vhr10.py does all of it
Source:  ours; the network of Yao et al. 2025 (RemoteSAM), begun with what `remotesam_scenes_tiny`
         has learnt from rendered scenes. Every third image is kept for the test. There is no
         validation set: the last weights are the result.
Expect:  oIoU 0.24 on the 146 sentences about images kept for the test, 0.01 with sentences of other
         images; running tracks are found, of ships and airplanes several, not the one that is
         meant (benchmarks/results/refseg_vhr10.json)
"""

from torchvision.transforms import v2

from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.refseg.configs import remotesam_scenes_tiny as scenes
from swath.refseg.data.flipped import Flipped
from swath.refseg.data.refer import SentenceList
from swath.refseg.task import ReferringTask

_ROOT = "$SWATH_DATA/vhr10-refs"
_FILES = {"path": f"{_ROOT}/refs.json", "images": f"{_ROOT}/images"}

model = scenes.model
task = Spec(ReferringTask, **{**scenes.task.kwargs, "input_size": 128})

train = Spec(
    Flipped,
    samples=Spec(SentenceList, **_FILES, split="train", objects=f"{_ROOT}/instances.json"),
)
augment = Spec(v2.ColorJitter, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03)
test = Spec(SentenceList, **_FILES, split="test")

optimizer = adamw_cosine(lr=1e-3, weight_decay=0.05, warmup=20)
iterations = 200
batch_size = 16
num_workers = 1
checkpoint_every = 100
keep_last = 1
ema = 0.98
clip_norm = 1.0
find_unused_parameters = True
seed = 0

card = {
    "title": "Small RemoteSAM on sentences about NWPU VHR-10",
    "data": "NWPU VHR-10 (CC-BY-NC-4.0), 181 images with 434 sentences made from its annotations",
    "licence": "for research, as the data",
}
