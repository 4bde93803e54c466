"""A small RSCoTr and scenes to train it on; any of its tasks alone, too."""

from collections.abc import Sequence
from typing import Any

from swath.core.backbones.swin import Swin
from swath.core.data.mixture import InMemory
from swath.core.data.scenes import CLASS_SETS, KINDS, SceneDataset, SceneObjects
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.mtl.augment import scene_resize, turned
from swath.mtl.data import Part, TaskMixture, WithObjects
from swath.mtl.models.dino import DINOHead
from swath.mtl.models.heads import SceneClassifier
from swath.mtl.models.mask_decoder import MaskDecoder
from swath.mtl.models.rscotr import RSCoTr
from swath.mtl.multi_task import MultiTask
from swath.mtl.strategies import RepeatedSequence
from swath.mtl.tasks import BoxTask, MaskTask, SceneClassificationTask

RENDERED, SIZE = 128, 64
"""Sides in pixels: as rendered, and as seen, with 0.6 to 1 m a pixel."""

DOMAIN = "coastal"
SCENES = {"domain": DOMAIN, "class_set": "landcover", "size": RENDERED}
OBJECTS = {"residential": "building", "sports": "court"}
"""What is to be found, by the kind of scene that shows it. A house fills about two cells of the
finest level a side; vehicles and boats are smaller than a cell."""

ALL = ("cls/kinds", "det/things", "seg/cover")
TURNS = ("det/things", "cls/kinds", "det/things", "seg/cover")
"""Detection is the slowest to learn and gets every other step."""

_BATCH = {"cls/kinds": 16, "det/things": 8, "seg/cover": 8}
_MASKS = CLASS_SETS["landcover"]
_SMALL = {"dim": 64, "heads": 4, "hidden": 128}


def model(names: Sequence[str] = ALL) -> Spec:
    """The heads of some of the sets on a small Swin."""
    heads = {
        "cls": Spec(SceneClassifier, num_classes=len(KINDS), in_channels=256),
        "det": Spec(
            DINOHead,
            num_classes=len(OBJECTS),
            num_queries=60,  # most of 85 tokens: a token that isn't chosen learns nothing
            depth=2,
            dn_queries=16,
            max_per_image=50,
            class_weight=3.0,
            **_SMALL,
        ),
        "seg": Spec(
            MaskDecoder,
            num_classes=len(_MASKS.classes),
            num_queries=len(_MASKS.classes),
            depth=2,
            **_SMALL,
        ),
    }
    chosen = [name.partition("/")[0] for name in names]
    return Spec(
        RSCoTr,
        backbone=Spec(
            Swin,
            embed_dim=32,
            depths=[2, 2, 6, 2],
            num_heads=[1, 2, 4, 8],
            window_size=4,  # divides the maps of all stages
            drop_path_rate=0.0,
        ),
        heads={name: heads[name] for name in chosen},
        dim=64,
        encoder_depth=1,
        encoder_heads=4,
        encoder_hidden=128,
        norm_groups=8,
    )


def task(names: Sequence[str] = ALL) -> Spec:
    """The tasks of some of the sets."""
    tasks = {
        "cls/kinds": Spec(SceneClassificationTask, classes=list(KINDS), mixup=0.0, cutmix=0.0),
        "det/things": Spec(BoxTask, classes=list(OBJECTS.values()), tile=2 * SIZE),
        "seg/cover": Spec(
            MaskTask,
            classes=list(_MASKS.classes),
            palette=[list(colour) for colour in _MASKS.palette],
        ),
    }
    return Spec(MultiTask, parts={name: tasks[name] for name in names})


def training(seed: int, names: Sequence[str] = ALL, count: int = 200) -> Spec:
    """So many scenes for each task, in their turns; those of one are none of another's."""
    parts = {}
    for name in names:
        scenes = Spec(InMemory, dataset=_scenes(name, seed, count))
        parts[name] = Spec(
            Part,
            dataset=Spec(WithObjects, dataset=scenes) if name == "det/things" else scenes,
            batch_size=_BATCH[name],
            transform=Spec(turned, size=SIZE),
        )
    turns = [name for name in TURNS if name in names]
    return Spec(TaskMixture, parts=parts, strategy=Spec(RepeatedSequence, sequence=turns))


def judged(seed: int, count: int, names: Sequence[str] = ALL) -> Spec:
    """Scenes to judge on."""
    size = Spec(scene_resize, size=SIZE)
    parts = {name: Spec(Part, dataset=_scenes(name, seed, count), transform=size) for name in names}
    return Spec(TaskMixture, parts=parts)


def _scenes(name: str, seed: int, count: int) -> Spec:
    which: dict[str, Any] = {"count": count, "seed": 10 * seed + ALL.index(name), **SCENES}
    if name == "det/things":
        classes = list(OBJECTS.values())
        return Spec(SceneObjects, classes=classes, kind=list(OBJECTS), whole=0.5, **which)
    labels = ["label" if name == "cls/kinds" else "mask"]
    return Spec(SceneDataset, labels=labels, **which)


def optimizer() -> Spec:
    """From scratch: a higher rate than the published one, the same for all parts."""
    return adamw_cosine(lr=1e-3, weight_decay=1e-4, warmup=30)
