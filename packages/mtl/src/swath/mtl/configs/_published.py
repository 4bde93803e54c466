"""What the published trainings share.

``$SWATH_DATA`` holds the folders ``resisc45``, ``dior`` and ``potsdam``, as `swath datasets`
describes them, and ``weights/swin_tiny_patch4_window7_224.pth``.
"""

from collections.abc import Sequence
from typing import Any

from swath.core.data.catalogue import load_dataset
from swath.core.spec import Spec, from_data
from swath.mtl import sets
from swath.mtl.augment import box_augment, box_resize, mask_augment, scene_augment, scene_resize
from swath.mtl.data import Part, TaskMixture, WithObjects
from swath.mtl.models.rscotr import rscotr
from swath.mtl.multi_task import MultiTask
from swath.mtl.strategies import RoundRobin

CLUTTER = 5
"""Label of Potsdam's clutter, by which the official training pads."""

_AUGMENT = {
    "cls/resisc": Spec(scene_augment, size=224),
    "det/dior": Spec(box_augment),
    "seg/potsdam": Spec(mask_augment, size=512, padding_label=CLUTTER),
}
_TO_JUDGE = {"cls/resisc": Spec(scene_resize, size=224), "det/dior": Spec(box_resize)}
_BATCH = {"cls/resisc": 16, "det/dior": 1, "seg/potsdam": 2}
_TEST_SPLITS = {"cls/resisc": "test", "det/dior": "test", "seg/potsdam": "val"}
ALL = tuple(sets.PROTOCOLS)


def model(names: Sequence[str] = ALL, **options: Any) -> Spec:
    """RSCoTr with the heads of some of the sets, its backbone from ImageNet."""
    counts = sets.num_classes()
    heads = {name.partition("/")[0]: 0 for name in names}
    return Spec(
        rscotr,
        classes={head: counts[head] for head in heads},
        weights="$SWATH_DATA/weights/swin_tiny_patch4_window7_224.pth",
        **options,
    )


def task(names: Sequence[str] = ALL, **options: Any) -> Spec:
    """The tasks of some of the sets."""
    return Spec(MultiTask, parts={n: from_data(sets.task_data(n)) for n in names}, **options)


def training(names: Sequence[str] = ALL, **options: Any) -> Spec:
    """Augmented training sets, in the published batches."""
    parts = {}
    for name in names:
        dataset = _split(name, "train")
        if name.startswith("det/"):
            dataset = Spec(WithObjects, dataset=dataset)
        parts[name] = Spec(Part, dataset=dataset, batch_size=_BATCH[name], transform=_AUGMENT[name])
    return Spec(TaskMixture, parts=parts, **({"strategy": Spec(RoundRobin)} | options))


def judged(names: Sequence[str] = ALL, test: bool = False) -> Spec:
    """Sets to judge on: the ones that choose the best checkpoint, or the test sets."""
    parts = {}
    for name in names:
        arguments: dict[str, Any] = {"dataset": _split(name, _TEST_SPLITS[name] if test else "val")}
        if name in _TO_JUDGE:
            arguments["transform"] = _TO_JUDGE[name]
        parts[name] = Spec(Part, **arguments)
    return Spec(TaskMixture, parts=parts)


def _split(name: str, split: str) -> Spec:
    set_name, protocol = sets.PROTOCOLS[name]
    root = f"$SWATH_DATA/{set_name}"
    return Spec(load_dataset, name=set_name, root=root, split=split, protocol=protocol)
