"""Classes of RemoteSAM's evaluations, as data; imports no torch.

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

DOTA = (
    "airplane", "ship", "storagetank", "baseballfield", "tenniscourt", "basketballcourt",
    "groundtrackfield", "harbor", "bridge", "large-vehicle", "small-vehicle", "helicopter",
    "roundabout", "soccer-ball-field", "swimming-pool", "container-crane", "airport", "helipad",
)  # fmt: skip
"""18 classes of DOTA-v2."""

FROM_DOTA: Mapping[str, str] = {
    "plane": "airplane",
    "storage-tank": "storagetank",
    "baseball-diamond": "baseballfield",
    "tennis-court": "tenniscourt",
    "basketball-court": "basketballcourt",
    "ground-track-field": "groundtrackfield",
}
"""What DOTA's own names are asked as, where that differs."""

ISAID = {
    "ship": (0, 0, 63), "storagetank": (0, 63, 63), "baseballfield": (0, 63, 0),
    "tenniscourt": (0, 63, 127), "basketballcourt": (0, 63, 191), "groundtrackfield": (0, 63, 255),
    "bridge": (0, 127, 63), "large-vehicle": (0, 127, 127), "small-vehicle": (0, 0, 127),
    "helicopter": (0, 0, 191), "swimming-pool": (0, 0, 255), "roundabout": (0, 191, 127),
    "soccer-ball-field": (0, 127, 191), "airplane": (0, 127, 255), "harbor": (0, 100, 155),
}  # fmt: skip
"""15 classes with their colours, in the order in which masks are merged."""

UCM = (
    "agricultural", "airplane", "baseballfield", "beach", "buildings", "chaparral",
    "denseresidential", "forest", "freeway", "golffield", "harbor", "intersection",
    "mediumresidential", "mobilehomepark", "overpass", "parkinglot", "river", "runway",
    "sparseresidential", "storagetank", "tenniscourt",
)  # fmt: skip

AID = (
    "airport", "bareland", "baseballfield", "beach", "bridge", "center", "church", "commercial",
    "denseresidential", "desert", "farmland", "forest", "industrial", "meadow",
    "mediumresidential", "mountain", "park", "parking", "playground", "pond", "port",
    "railwaystation", "resort", "river", "school", "sparseresidential", "square", "stadium",
    "storagetank", "viaduct",
)  # fmt: skip

FROM_FOLDERS: Mapping[str, str] = {
    "baseballdiamond": "baseballfield",
    "golfcourse": "golffield",
    "storagetanks": "storagetank",
}
"""What folders of UCM and AID are asked as, where that differs."""

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
