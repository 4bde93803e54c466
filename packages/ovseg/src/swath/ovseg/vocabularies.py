"""Class lists of the published models, spelt as their prompts spell them; imports no torch."""

LANDDISCOVER = (
    "background", "bare land", "grass", "pavement", "road", "tree", "water", "agriculture land",
    "buildings", "forest land", "barren land", "urban land", "large-vehicle", "swimming-pool",
    "helicopter", "bridge", "plane", "ship", "soccer-ball-field", "basketball-court",
    "ground-track-field", "small-vehicle", "baseball-diamond", "tennis-court", "roundabout",
    "storage-tank", "harbor", "container-crane", "airport", "helipad", "chimney",
    "expressway service area", "expresswalltoll station", "dam", "golf field", "overpass",
    "stadium", "train station", "vehicle", "windmill",
)  # fmt: skip
"""LandDiscover50K; the misspelling is the official prompt's, and the model was trained with it."""

FLOODNET = (
    "Background", "building-flooded", "building-non-flooded", "road-flooded", "road-non-flooded",
    "water", "tree", "vehicle", "pool", "grass",
)  # fmt: skip

FLAIR = (
    "building", "pervious-surface", "impervious-surface", "bare soil", "water", "coniferous",
    "deciduous", "brushwood", "vineyard", "herbaceous vegetation", "agricultural land",
    "plowed land",
)  # fmt: skip

FAST = (
    "A220", "A321", "A330", "A350", "ARJ21", "Baseball-Field", "Basketball-Court", "Boeing737",
    "Boeing747", "Boeing777", "Boeing787", "Bridge", "Bus", "C919", "Cargo-Truck",
    "Dry-Cargo-Ship", "Dump-Truck", "Engineering-Ship", "Excavator", "Fishing-Boat",
    "Football-Field", "Intersection", "Liquid-Cargo-Ship", "Motorboat", "other-airplane",
    "other-ship", "other-vehicle", "Passenger-Ship", "Roundabout", "Small-Car", "Tennis-Court",
    "Tractor", "Trailer", "Truck-Tractor", "Tugboat", "Van", "Warship",
)  # fmt: skip

POTSDAM = ("impervious surface", "building", "low vegetation", "tree", "car")
"""GSNet's five; clutter is ignored."""

DLRSD = (
    "airplane", "bare soil", "buildings", "cars", "chaparral", "court", "dock", "field", "grass",
    "mobile home", "pavement", "sand", "sea", "ship", "tanks", "trees", "water",
)  # fmt: skip

ISAID = (
    "ship", "storage tank", "baseball diamond", "tennis court", "basketball court",
    "ground track field", "bridge", "large vehicle", "small vehicle", "helicopter",
    "swimming pool", "roundabout", "soccer ball field", "plane", "harbor",
)  # fmt: skip

ISPRS = (
    "Impervious surfaces", "Building", "Low vegetation", "Tree", "Car", "Clutter/background",
)  # fmt: skip
"""OVRSISBench's Potsdam and Vaihingen; clutter is scored."""

LOVEDA = (
    "no-data", "Background", "Building", "Road", "Water", "Barren", "Forest", "Agriculture",
)  # fmt: skip

UAVID = (
    "Background clutter", "Building", "Road", "Tree", "Low vegetation", "Moving car", "Static car",
    "Human",
)  # fmt: skip

UDD5 = ("Vegetation", "Building", "Road", "Vehicle", "Other")

VDD = ("Other", "Wall", "Road", "Vegetation", "Vehicle", "Roof", "Water")
