"""The data sets of S5's multi-data-set fine-tuning and how each is judged; imports no torch."""

from collections.abc import Mapping
from typing import Any

from swath.core.data.catalogue import dataset_spec
from swath.core.data.spec import Protocol

PROTOCOL = "s5"
"""Name of the protocol by which the catalogue's sets are read here."""

EVALUATION: Mapping[str, Mapping[str, Any]] = {
    "vaihingen": {"mode": "whole", "flip": True},
    "potsdam": {"mode": "whole", "flip": True},
    "openearthmap": {"mode": "resize", "size": 512},
    "loveda": {"mode": "slide", "size": 512, "step": 256},
}
"""Arguments of `EvaluationMode` by data set, in the order of the published model's experts.

Source:
    S5 dossier d, official `evaluate.py`. There LoveDA's windows at the border count up to three
    times; that is ``repeat_clamped_windows=True``.
"""

NAMES = tuple(EVALUATION)


def protocol(name: str) -> Protocol:
    """How S5 reads the labels of one of its sets."""
    return dataset_spec(name, task="segmentation").protocol(PROTOCOL)


def num_classes() -> dict[str, int]:
    """Classes of each set, in the order of the experts."""
    return {name: len(protocol(name).classes) for name in NAMES}


def task_data() -> dict[str, Any]:
    """The task of each set, as data that `swath.core.spec.from_data` turns into specs.

    Means are over all classes, as officially: one that doesn't occur counts as 0.
    """
    return {
        name: {
            "_target_": "swath.core.segmentation:SegmentationTask",
            "classes": list(protocol(name).classes),
            "palette": [list(colour) for colour in protocol(name).palette],
            "gsd_m": dataset_spec(name, task="segmentation").gsd_m,
            "mean_over": "all",
            "evaluation": {
                "_target_": "swath.core.inference.protocols:EvaluationMode",
                **EVALUATION[name],
            },
        }
        for name in NAMES
    }
