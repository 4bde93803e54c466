"""The data sets of S5's oriented detection and how each is judged; imports no torch."""

from collections.abc import Mapping
from typing import Any

from swath.core.data.catalogue import dataset_spec
from swath.core.data.spec import Protocol

PROTOCOL = "s5"
"""Name of the protocol by which the catalogue's sets are read here."""

CATALOGUE: Mapping[str, str] = {"dior": "dior-r", "dota": "dota"}
"""The catalogue's name of each set, in the order of the published model's experts."""

EVALUATION: Mapping[str, Mapping[str, Any]] = {
    "dior": {"protocol": "voc07", "zoom": 1.28},
    "dota": {"protocol": "voc07"},
}
"""How each is judged: AP at rotated IoU 0.5; DIOR's images of 800 px are enlarged to 1024.

Source:
    S5 dossier c.2 and d. DOTA's own server gives the figure of its test set.
"""

NAMES = tuple(CATALOGUE)


def protocol(name: str) -> Protocol:
    """How S5 reads the labels of one of its sets."""
    return dataset_spec(CATALOGUE[name], task="detection").protocol(PROTOCOL)


def num_classes() -> dict[str, int]:
    """Classes of each set, in the order of the experts."""
    return {name: len(protocol(name).classes) for name in NAMES}


def task_data() -> dict[str, Any]:
    """The task of each set, as data that `swath.core.spec.from_data` turns into specs."""
    return {
        name: {
            "_target_": "swath.core.detection.task:DetectionTask",
            "classes": list(protocol(name).classes),
            "palette": [list(colour) for colour in protocol(name).palette],
            "gsd_m": dataset_spec(CATALOGUE[name], task="detection").gsd_m,
            "min_side_px": 2.0 if name == "dota" else 1.0,
            **EVALUATION[name],
        }
        for name in NAMES
    }
