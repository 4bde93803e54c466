"""A small RSCoTr and scenes to train it on; any of its tasks alone, too."""

from collections.abc import Sequence

from swath.core.backbones.swin import Swin
from swath.core.data.scenes import CLASS_SETS, KINDS, OBJECT_CLASSES, SceneDataset
from swath.core.data.transforms import Dihedral
from swath.core.spec import Spec
from swath.mtl.data import Part, TaskMixture
from swath.mtl.models.dino import DINOHead
from swath.mtl.models.heads import SceneClassifier
from swath.mtl.models.mask_decoder import MaskDecoder
from swath.mtl.models.rscotr import RSCoTr
from swath.mtl.optim import CoTrainingAdamW
from swath.mtl.tasks import BoxTask, MaskTask, MultiTask, SceneClassificationTask

SIZE = 128
CLASS_SET = "landcover"
ALL = ("cls/kinds", "det/things", "seg/cover")
_LABELS = {"cls/kinds": "label", "det/things": "boxes", "seg/cover": "mask"}
_BATCH = {"cls/kinds": 16, "det/things": 6, "seg/cover": 6}
_MASKS = CLASS_SETS[CLASS_SET]
_SMALL = {"dim": 64, "heads": 4, "hidden": 128}


def model(names: Sequence[str] = ALL) -> Spec:
    """The heads of some of the sets on a small Swin."""
    heads = {
        "cls": Spec(SceneClassifier, num_classes=len(KINDS), in_channels=256),
        "det": Spec(
            DINOHead,
            num_classes=len(OBJECT_CLASSES),
            num_queries=60,
            depth=3,
            dn_queries=30,
            max_per_image=100,
            **_SMALL,
        ),
        "seg": Spec(
            MaskDecoder,
            num_classes=len(_MASKS.classes),
            num_queries=len(_MASKS.classes),
            depth=3,
            **_SMALL,
        ),
    }
    chosen = [name.partition("/")[0] for name in names]
    return Spec(
        RSCoTr,
        backbone=Spec(
            Swin, embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], drop_path_rate=0.0
        ),
        heads={name: heads[name] for name in chosen},
        dim=64,
        encoder_depth=2,
        encoder_heads=4,
        encoder_hidden=128,
        norm_groups=8,
    )


def task(names: Sequence[str] = ALL) -> Spec:
    """The tasks of some of the sets."""
    tasks = {
        "cls/kinds": Spec(SceneClassificationTask, classes=list(KINDS), mixup=0.0, cutmix=0.0),
        "det/things": Spec(BoxTask, classes=list(OBJECT_CLASSES)),
        "seg/cover": Spec(
            MaskTask,
            classes=list(_MASKS.classes),
            palette=[list(colour) for colour in _MASKS.palette],
        ),
    }
    return Spec(MultiTask, parts={name: tasks[name] for name in names})


def data(seed: int, count: int, names: Sequence[str] = ALL, augmented: bool = False) -> Spec:
    """Scenes for each task; those of one are none of another's."""
    parts = {}
    for name in names:
        scenes = Spec(
            SceneDataset,
            size=SIZE,
            count=count,
            seed=10 * seed + ALL.index(name),
            labels=[_LABELS[name]],
            class_set=CLASS_SET,
        )
        options = {"transform": Spec(Dihedral)} if augmented else {}
        parts[name] = Spec(Part, dataset=scenes, batch_size=_BATCH[name], **options)
    return Spec(TaskMixture, parts=parts)


def optimizer() -> Spec:
    """From scratch: a higher rate than the published one, the same for all parts."""
    return Spec(CoTrainingAdamW, lr=5e-4, weight_decay=1e-4, milestones=[0.8, 0.95])
