"""Names of classes in RemoteSAM's evaluations, and how large they are; imports no torch.

Source:
    Dossier section 4, class lists.
"""

from collections.abc import Mapping

DIOR = (
    "airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney", "dam",
    "expressway-service-area", "expressway-toll-station", "golffield", "groundtrackfield",
    "harbor", "overpass", "ship", "stadium", "storagetank", "tenniscourt", "trainstation",
    "vehicle", "windmill",
)  # fmt: skip
"""20 classes; category ids 1 to 20 in this order."""

_ASKED_AS: Mapping[str, str] = {
    "plane": "airplane",
    "storage-tank": "storagetank",
    "storagetanks": "storagetank",
    "baseball-diamond": "baseballfield",
    "baseballdiamond": "baseballfield",
    "golfcourse": "golffield",
    "tennis-court": "tenniscourt",
    "basketball-court": "basketballcourt",
    "ground-track-field": "groundtrackfield",
}


def asked_as(name: str) -> str:
    """What a class of DOTA, iSAID, DIOR, UCM or AID is asked as, of how the set calls it."""
    plain = name.lower().replace("_", "-")
    return _ASKED_AS.get(plain, plain)


UCM_CAPTIONS = (
    "road", "highway", "bank", "tenniscourt", "roof", "vehicle", "parking lot", "airplane",
    "stand", "farmland", "waste land", "basketballcourt", "storagetank", "pedestrian", "villa",
    "beach", "boat", "tree", "grass", "water", "trail", "park", "bush", "golffield", "house",
    "airport", "people", "overpass", "baseballfield", "swimming-pool", "bunker", "building",
    "harbor", "residential", "sand", "stadium", "intersection",
)  # fmt: skip
"""37 things that captions may speak of."""

PRIOR_SHARE = 0.8
"""When counting, boxes of no more than this share of a class's prior are dropped."""

DIOR_PRIORS: Mapping[str, float] = {
    "airplane": 36, "airport": 1824, "baseballfield": 20, "basketballcourt": 88, "bridge": 9,
    "chimney": 12, "dam": 264, "expressway-service-area": 110, "expressway-toll-station": 36,
    "golffield": 2728, "groundtrackfield": 132, "harbor": 24, "overpass": 9, "ship": 14,
    "stadium": 255, "storagetank": 4, "tenniscourt": 36, "trainstation": 1170, "vehicle": 6,
    "windmill": 27,
}  # fmt: skip
"""Area in square pixels that objects of DIOR have at least, by class."""

DOTA_PRIORS: Mapping[str, float] = {
    "airplane": 35, "ship": 15, "storagetank": 8, "baseballfield": 81, "tenniscourt": 153,
    "basketballcourt": 576, "groundtrackfield": 210, "harbor": 64, "bridge": 24, "vehicle": 21,
    "helicopter": 162, "roundabout": 16, "soccer-ball-field": 72, "swimming-pool": 20,
    "container-crane": 187, "airport": 1337, "helipad": 121,
}  # fmt: skip
"""The like of DOTA."""

PRIORS: Mapping[str, Mapping[str, float]] = {
    "counting-dior": DIOR_PRIORS,
    "counting-dota": DOTA_PRIORS,
}
"""Those of the sets that are counted on."""
