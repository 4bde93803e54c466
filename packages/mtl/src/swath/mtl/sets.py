"""The data sets of the published RSCoTr and how each is read; imports no torch."""

from collections.abc import Mapping
from typing import Any

from swath.core.data.catalogue import dataset_spec
from swath.core.data.spec import Protocol

PROTOCOLS: Mapping[str, tuple[str, str]] = {
    "cls/resisc": ("resisc45", "resisc45"),
    "det/dior": ("dior", "dior"),
    "seg/potsdam": ("potsdam", "mmseg"),
}
"""Set and protocol of the catalogue, by ``"<head>/<data set>"``."""

UNJUDGED = ("clutter",)
"""Potsdam's class that is learnt as a sixth, but neither judged nor answered with."""


def protocol(name: str) -> Protocol:
    """How one of the sets is read."""
    set_name, how = PROTOCOLS[name]
    return dataset_spec(set_name).protocol(how)


def num_classes() -> dict[str, int]:
    """Classes by head, unjudged ones left out."""
    return {
        name.partition("/")[0]: len([c for c in protocol(name).classes if c not in UNJUDGED])
        for name in PROTOCOLS
    }


def task_data(name: str) -> dict[str, Any]:
    """The task of one set, as data that `swath.core.spec.from_data` turns into a spec."""
    how = protocol(name)
    palette = [list(colour) for colour in how.palette]
    tasks: dict[str, dict[str, Any]] = {
        "cls/resisc": {
            "_target_": "swath.mtl.tasks:SceneClassificationTask",
            "classes": list(how.classes),
        },
        "det/dior": {
            "_target_": "swath.mtl.tasks:BoxTask",
            "classes": list(how.classes),
            "palette": palette,
        },
        "seg/potsdam": {
            "_target_": "swath.mtl.tasks:MaskTask",
            "classes": list(how.classes),
            "palette": palette,
            "unjudged": list(UNJUDGED),
        },
    }
    return tasks[name]


def task_datas() -> dict[str, Any]:
    """The tasks of all sets."""
    return {name: task_data(name) for name in PROTOCOLS}
