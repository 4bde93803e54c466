"""A small RSCoTr on real imagery of three kinds at once: EuroSAT, NWPU VHR-10, roofs of Kampala.

Run:     SWATH_DATA=<samples> swath train rscotr_samples_small --set init_from=<weights of
         rscotr_scenes_tiny>
Source:  ours; a few hundred images each
Expect:  EuroSAT top-1 57 %, VHR-10 AP50 5.8 %, IoU of Kampala's buildings 44 %, after 791 s of a
         busy core (benchmarks/mtl_samples.py): shows the way, not what such data can give
"""

from swath.core.data.catalogue import dataset_spec, load_dataset
from swath.core.data.kampala import BUILDINGS, kampala_buildings
from swath.core.data.mixture import InMemory
from swath.core.data.random_window import window_augment
from swath.core.data.transforms import Dihedral
from swath.core.spec import Spec
from swath.mtl.augment import box_augment, box_resize
from swath.mtl.configs import _scenes
from swath.mtl.data import Fold, Part, TaskMixture
from swath.mtl.multi_task import MultiTask
from swath.mtl.strategies import RepeatedSequence
from swath.mtl.tasks import BoxTask, MaskTask, SceneClassificationTask

_EUROSAT = list(dataset_spec("eurosat").protocol().classes)
_VHR10 = list(dataset_spec("nwpu-vhr10").protocol().classes)

model = _scenes.model()
model["heads"]["cls"]["num_classes"] = len(_EUROSAT)
model["heads"]["det"]["num_classes"] = len(_VHR10)
model["heads"]["seg"]["num_classes"] = len(BUILDINGS.classes)
model["heads"]["seg"]["num_queries"] = len(BUILDINGS.classes)
task = Spec(
    MultiTask,
    parts={
        "cls/eurosat": Spec(SceneClassificationTask, classes=_EUROSAT, mixup=0.0, cutmix=0.0),
        "det/vhr10": Spec(BoxTask, classes=_VHR10),
        "seg/kampala": Spec(
            MaskTask,
            classes=list(BUILDINGS.classes),
            palette=[list(colour) for colour in BUILDINGS.palette],
        ),
    },
)


def _data(part: str) -> Spec:
    eurosat = Spec(load_dataset, name="eurosat", root="$SWATH_DATA/classification/eurosat_rgb")
    vhr10 = Spec(load_dataset, name="nwpu-vhr10", root="$SWATH_DATA/detection/nwpu_vhr10")
    kampala = Spec(
        kampala_buildings,
        root="$SWATH_DATA/segmentation/oam_kampala_buildings",
        fold=1,
        part=part,
        stitched=part == "train",
    )
    training = part == "train"
    box_size = {"short": 192, "long": 320}
    parts = {
        "cls/eurosat": Spec(
            Part,
            dataset=Spec(InMemory, dataset=Spec(Fold, dataset=eurosat, part=part)),
            batch_size=32,
            transform=Spec(Dihedral) if training else None,
        ),
        "det/vhr10": Spec(
            Part,
            dataset=Spec(InMemory, dataset=Spec(Fold, dataset=vhr10, part=part)),
            batch_size=4,
            transform=Spec(box_augment if training else box_resize, **box_size),
        ),
        "seg/kampala": Spec(
            Part,
            dataset=Spec(InMemory, dataset=kampala),
            batch_size=6,
            transform=Spec(window_augment, size=160, scale=[0.4, 1.5]) if training else None,
        ),
    }
    turns = ["det/vhr10", "cls/eurosat", "det/vhr10", "seg/kampala"]
    return Spec(TaskMixture, parts=parts, strategy=Spec(RepeatedSequence, sequence=turns))


train = _data("train")
test = _data("test")

optimizer = _scenes.optimizer()
iterations = 1200
batch_size = 4
num_workers = 0  # images are kept once read
checkpoint_every = 400
log_every = 30
clip_norm = 1.0
find_unused_parameters = True
seed = 0

card = {
    "title": "Small RSCoTr on EuroSAT, NWPU VHR-10 and buildings of Kampala",
    "data": "EuroSAT, NWPU VHR-10, OpenAerialMap imagery with OpenStreetMap buildings",
}
