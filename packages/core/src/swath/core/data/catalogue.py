"""The data sets that core knows, and `load_dataset`, which reads one.

Classes, encodings and paths follow the papers and official repositories named in ``source``; where
a licence or a place to get the data isn't certain, it is left out. Plugins add sets of their own:
their ``datasets`` attribute names `DatasetSpec` objects (or tuples of them) as ``"module:Name"``.
"""

import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swath.core.data.spec import DatasetSpec, Layout, Protocol
from swath.core.errors import DataError, suggest
from swath.core.plugins import plugins, resolve
from swath.core.zoo import ISAID_CLASSES, ISAID_PALETTE

if TYPE_CHECKING:
    from swath.core.data.detection import DetectionItems
    from swath.core.data.segmentation import SegmentationItems

_EXT = "{ext:png|jpg|jpeg|tif|tiff|bmp}"
_IMAGE = f"{{id}}.{_EXT}"

# ISPRS Potsdam and Vaihingen ----------------------------------------------------------------------
_ISPRS = ("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter")
_ISPRS_RGB = (
    (255, 255, 255),
    (0, 0, 255),
    (0, 255, 255),
    (0, 255, 0),
    (255, 255, 0),
    (255, 0, 0),
)
_BLACK = ((0, 0, 0), 255)
_ISPRS_PROTOCOLS = {
    "s5": Protocol(
        _ISPRS[:5],
        _ISPRS_RGB[:5],
        mapping=(*((i, i) for i in range(5)), (5, 255), (255, 255)),
        tile_px=512,
        source="S5 fine-tuning: indices 0 to 4, clutter 5 ignored (there by ignore_index 5)",
    ),
    "mmseg": Protocol(
        _ISPRS,
        _ISPRS_RGB,
        mapping=((0, 255), *((i + 1, i) for i in range(6))),
        tile_px=512,
        source="mmsegmentation and RSCoTr: 0 boundary (ignored), 1 to 6 the classes",
    ),
    "mmseg5": Protocol(
        _ISPRS[:5],
        _ISPRS_RGB[:5],
        mapping=((0, 255), *((i + 1, i) for i in range(5)), (6, 255)),
        tile_px=512,
        metric="mF1",
        source="as mmseg, with clutter ignored too",
    ),
    "index6": Protocol(
        _ISPRS, _ISPRS_RGB, source="OVRSISBench (RSKT-Seg): indices 0 to 5, clutter is scored"
    ),
    "rgb": Protocol(
        _ISPRS,
        _ISPRS_RGB,
        mapping=(*((c, i) for i, c in enumerate(_ISPRS_RGB)), _BLACK),
        source="original colour labels; black boundaries of the noBoundary variant ignored",
    ),
    "rgb5": Protocol(
        _ISPRS[:5],
        _ISPRS_RGB[:5],
        mapping=(*((c, i) for i, c in enumerate(_ISPRS_RGB[:5])), (_ISPRS_RGB[5], 255), _BLACK),
        metric="mF1",
        source="original colour labels, clutter and boundaries ignored",
    ),
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_POTSDAM_TRAIN = _words(
    "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 "
    "6_7 6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_10 7_11 7_12"
)
_POTSDAM_VAL = _words("2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13")
_VAIHINGEN_TRAIN = _words("1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37")
_VAIHINGEN_VAL = _words("2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38")

_POTSDAM = DatasetSpec(
    name="potsdam",
    title="ISPRS Potsdam",
    task="segmentation",
    layouts=(
        Layout(
            r"img_dir/{split}/top_potsdam_{tile:\d+_\d+}_RGB_{crop}.png",
            "ann_dir/{split}/top_potsdam_{tile}_label_{crop}.png",
            protocol="s5",
        ),
        Layout(
            r"img_dir/{split}/{tile:\d+_\d+}_{window}.png",
            "ann_dir/{split}/{tile}_{window}.png",
            protocol="mmseg",
        ),
        Layout(
            r"img_dir/{tile:\d+_\d+}_{window}.png",
            "ann_dir/{tile}_{window}.png",
            protocol="mmseg",
        ),
        Layout(
            r"img_IRRG/{split}/{tile:\d+_\d+}_{window}.png",
            "ann_all/{split}/{tile}_{window}.png",
            protocol="mmseg",
        ),
        Layout(
            r"2_Ortho_RGB/top_potsdam_{tile:\d+_\d+}_RGB.tif",
            "5_Labels_all/top_potsdam_{tile}_label.tif",
            protocol="rgb",
        ),
    ),
    protocols=_ISPRS_PROTOCOLS,
    splits={
        "train": {"split": ("train",), "tile": _POTSDAM_TRAIN},
        "val": {"split": ("val",), "tile": _POTSDAM_VAL},
    },
    folder="potsdam",
    gsd_m=0.05,
    where="ISPRS 2D Semantic Labeling Contest",
    notes=(
        "Labels exist as original colours, as indices from 0, and as indices from 1 with 0 for "
        "boundaries: the protocol must fit. Tile 7_10 has known label errors, yet stays in train."
    ),
)
_VAIHINGEN = DatasetSpec(
    name="vaihingen",
    title="ISPRS Vaihingen",
    task="segmentation",
    layouts=(
        Layout(
            r"img_dir/{split}/top_mosaic_09cm_area{area:\d+}_{crop}.tif",
            "ann_dir/{split}/top_mosaic_09cm_area{area}_{crop}.tif",
            protocol="s5",
        ),
        Layout(
            r"img_dir/{split}/area{area:\d+}_{window}.png",
            "ann_dir/{split}/area{area}_{window}.png",
            protocol="mmseg",
        ),
        Layout(
            r"img_dir/area{area:\d+}_{window}.png",
            "ann_dir/area{area}_{window}.png",
            protocol="mmseg",
        ),
        Layout(
            r"top/top_mosaic_09cm_area{area:\d+}.tif",
            "gts_for_participants/top_mosaic_09cm_area{area}.tif",
            protocol="rgb",
        ),
    ),
    protocols=_ISPRS_PROTOCOLS,
    splits={
        "train": {"split": ("train",), "area": _VAIHINGEN_TRAIN},
        "val": {"split": ("val",), "area": _VAIHINGEN_VAL},
    },
    folder="vaihingen",
    gsd_m=0.09,
    bands=("nir", "red", "green"),
    where="ISPRS 2D Semantic Labeling Contest",
    notes="Near infrared, red and green in the place of red, green and blue.",
)

# LoveDA -------------------------------------------------------------------------------------------
_LOVEDA_CLASSES = ("background", "building", "road", "water", "barren", "forest", "agriculture")
_LOVEDA_RGB = (
    (255, 255, 255),
    (255, 0, 0),
    (255, 255, 0),
    (0, 0, 255),
    (159, 129, 183),
    (0, 255, 0),
    (255, 195, 128),
)
_LOVEDA = DatasetSpec(
    name="loveda",
    title="LoveDA: land cover of rural and urban scenes",
    task="segmentation",
    layouts=(
        Layout(
            "{split:Train|Val|Test}/{area:Rural|Urban}/images_png/{n}.png",
            "{split}/{area}/masks_png/{n}.png",
        ),
        Layout("img_dir/{split}/{n}.png", "ann_dir/{split}/{n}.png"),
        Layout("img_dir/{n}.png", "ann_dir/{n}.png"),
        Layout("images_png/{n}.png", "masks_png/{n}.png"),
    ),
    protocols={
        "s5": Protocol(
            _LOVEDA_CLASSES,
            _LOVEDA_RGB,
            mapping=((0, 255), *((i + 1, i) for i in range(7))),
            tile_px=512,
            source="LoveDA, S5, mmsegmentation: 0 is no data and ignored, the rest shift by one",
        ),
        "ovrs": Protocol(
            ("no-data", *_LOVEDA_CLASSES),
            ((0, 0, 0), *_LOVEDA_RGB),
            source="OVRSISBench (RSKT-Seg): stored values as they are, no-data is a scored class",
        ),
    },
    splits={
        "train": {"split": ("Train", "train")},
        "val": {"split": ("Val", "val")},
        "test": {"split": ("Test", "test")},
        "all": {"split": ("Train", "train", "Val", "val")},
    },
    unlabelled=("test",),
    folder="loveda",
    gsd_m=0.3,
    licence="CC-BY-NC-SA-4.0 (academic use)",
    where="Junjue-Wang/LoveDA on GitHub",
    notes="'all' is Train and Val, as S5 trains; test labels are on the benchmark's server only.",
)

# OpenEarthMap -------------------------------------------------------------------------------------
_OEM_CLASSES = (
    "bareland",
    "rangeland",
    "developed",
    "road",
    "tree",
    "water",
    "cropland",
    "building",
)
_OEM_RGB = (
    (128, 0, 0),
    (0, 255, 36),
    (148, 148, 148),
    (255, 255, 255),
    (34, 97, 38),
    (0, 69, 255),
    (75, 181, 73),
    (222, 31, 7),
)
_OPENEARTHMAP = DatasetSpec(
    name="openearthmap",
    title="OpenEarthMap: global land cover",
    task="segmentation",
    layouts=(
        Layout("{city}/images/{city}_{n}.tif", "{city}/labels/{city}_{n}.tif", lists="{split}.txt"),
    ),
    protocols={
        "s5": Protocol(
            ("unknown", *_OEM_CLASSES),
            ((0, 0, 0), *_OEM_RGB),
            tile_px=512,
            source="S5: nine classes, 0 is unknown or other and is scored",
        ),
        "eight": Protocol(
            _OEM_CLASSES,
            _OEM_RGB,
            mapping=((0, 255), *((i + 1, i) for i in range(8))),
            source="the data set's eight classes; unknown is ignored",
        ),
    },
    folder="openearthmap",
    where="bao18/open_earth_map on GitHub; regions from xBD must be fetched apart",
    notes="0.25 to 0.5 m, 97 regions. Splits are train.txt, val.txt and test.txt in the root.",
)

# iSAID --------------------------------------------------------------------------------------------
_ISAID = DatasetSpec(
    name="isaid",
    title="iSAID: semantic labels of DOTA scenes",
    task="segmentation",
    layouts=(
        Layout("{split}/images/{id}.png", "{split}/masks/{id}.png"),
        Layout("img_dir/{split}/{id}.png", "ann_dir/{split}/{id}_instance_color_RGB.png"),
        Layout("imgs/{id}.png", "D2masks/{id}.png", protocol="ovrs"),
    ),
    protocols={
        "s4p": Protocol(
            ISAID_CLASSES,
            ISAID_PALETTE,
            tile_px=512,
            metric="mIoU without background",
            source="S4P pre-training: index masks 0 to 15, 255 ignored; colours of the data set",
        ),
        "foreground": Protocol(
            ISAID_CLASSES[1:],
            ISAID_PALETTE[1:],
            mapping=((0, 255), *((i + 1, i) for i in range(15)), (255, 255)),
            source="fifteen classes, background ignored",
        ),
        "ovrs": Protocol(
            ISAID_CLASSES[1:],
            ISAID_PALETTE[1:],
            source="OVRSISBench: index masks from 0, 255 ignored",
        ),
        "rgb": Protocol(
            ISAID_CLASSES,
            ISAID_PALETTE,
            mapping=tuple((c, i) for i, c in enumerate(ISAID_PALETTE)),
            source="original colour masks",
        ),
    },
    splits={"train": {"split": ("train",)}, "val": {"split": ("val",)}},
    folder="iSAID",
    licence="CC-BY-NC-4.0, as listed by TorchGeo",
    where="CAPTAIN-WHU (iSAID); images come from DOTA",
)

# Buildings, floods, towns -------------------------------------------------------------------------
_BUILDING = Protocol(
    ("background", "building"),
    ((0, 0, 0), (230, 60, 40)),
    mapping=((0, 0), (1, 1), (255, 1)),
    metric="IoU of building",
    source="masks of 0 and 1, of 0 and 255, or of 1 bit",
)
_WHU = DatasetSpec(
    name="whu-building",
    title="WHU aerial buildings",
    task="segmentation",
    layouts=(
        Layout("{split}/image/{id}.tif", "{split}/label/{id}.tif"),
        Layout("image/{id}.tif", "label/{id}.tif"),
    ),
    protocols={"building": _BUILDING},
    splits={s: {"split": (s,)} for s in ("train", "val", "test")},
    gsd_m=0.3,
    licence="CC-BY-4.0 (LINZ aerial imagery)",
)
_KAMPALA = DatasetSpec(
    name="oam-kampala",
    title="OpenAerialMap drone tiles of Kampala with OpenStreetMap buildings",
    task="segmentation",
    layouts=(Layout("images/{zoom}/{id}.png", "masks/{zoom}/{id}.png"),),
    protocols={"building": _BUILDING},
    splits={z: {"zoom": (z,)} for z in ("z19", "z20", "z21")},
    licence="imagery CC-BY-4.0, labels ODbL-1.0",
    where="hotosm/fAIr-utilities on GitHub, ramp-data/sample_2/input",
    notes=(
        "Zoom 21 is 7.5 cm, each zoom below twice that. The zooms show the same ground: split by "
        "place, never by file. Some .png files are JPEG inside."
    ),
)
_DUBAI_CODES = (
    ("building", (60, 16, 152)),
    ("land", (132, 41, 246)),
    ("road", (110, 193, 228)),
    ("vegetation", (254, 221, 58)),
    ("water", (226, 169, 41)),
)
_DUBAI = DatasetSpec(
    name="dubai",
    title="Semantic segmentation of aerial imagery, Dubai",
    task="segmentation",
    layouts=(
        Layout("{tile}/images/{id}.jpg", "{tile}/masks/{id}.png"),
        Layout("{id}.jpg", "{id}.png"),
    ),
    protocols={
        "rgb": Protocol(
            tuple(name for name, _ in _DUBAI_CODES),
            tuple(colour for _, colour in _DUBAI_CODES),
            mapping=(*((c, i) for i, (_, c) in enumerate(_DUBAI_CODES)), ((155, 155, 155), 255)),
            source="colour labels; unlabelled (155, 155, 155) ignored",
        )
    },
    licence="CC0-1.0",
    where="Humans in the Loop, with the MBRSC",
)
_FLOOD = {
    "water": Protocol(
        ("land", "water"),
        ((150, 120, 80), (40, 90, 220)),
        mapping=((-1, 255), (0, 0), (1, 1)),
        metric="IoU of water",
        source="Sen1Floods11 hand labels: -1 not analysed (ignored), 0 land, 1 water",
    )
}
_FLOOD_ROOT = "v1.1/data/flood_events/HandLabeled"


def _flood(name: str, title: str, sensor: str, bands: tuple[str, ...], dtype: str) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task="segmentation",
        layouts=(
            Layout(f"{sensor}/{{chip}}_{sensor}.tif", "LabelHand/{chip}_LabelHand.tif"),
            Layout(
                f"{_FLOOD_ROOT}/{sensor}/{{chip}}_{sensor}.tif",
                f"{_FLOOD_ROOT}/LabelHand/{{chip}}_LabelHand.tif",
            ),
            Layout(f"{{chip}}_{sensor}.tif", "{chip}_LabelHand.tif"),
        ),
        protocols=_FLOOD,
        gsd_m=10.0,
        bands=bands,
        dtype=dtype,
        where="cloudtostreet/Sen1Floods11 on GitHub",
    )


_S2_BANDS = _words("B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12")
_SEN1FLOODS11 = _flood("sen1floods11", "Sen1Floods11, Sentinel-2", "S2Hand", _S2_BANDS, "int16")
_SEN1FLOODS11_S1 = _flood(
    "sen1floods11-s1", "Sen1Floods11, Sentinel-1", "S1Hand", ("VV", "VH"), "float32"
)

# Detection ----------------------------------------------------------------------------------------
_VHR10_CLASSES = _words(
    "airplane ship storage_tank baseball_diamond tennis_court basketball_court "
    "ground_track_field harbor bridge vehicle"
)
_VHR10_LICENCE = "CC-BY-NC-4.0, as listed by TorchGeo"
_VHR10 = DatasetSpec(
    name="nwpu-vhr10",
    title="NWPU VHR-10",
    task="detection",
    layouts=(
        Layout("images/{id}.jpg", "instances.json", kind="coco"),
        Layout("positive image set/{id}.jpg", "ground truth/{id}.txt", kind="vhr10"),
    ),
    protocols={"vhr10": Protocol(_VHR10_CLASSES, metric="AP50")},
    licence=_VHR10_LICENCE,
    notes="0.5 to 2 m, some false colour at 8 cm.",
)
_VHR10_ROTATED = DatasetSpec(
    name="nwpu-vhr10-rotated",
    title="NWPU VHR-10 with rotated boxes around the outlines",
    task="detection",
    layouts=(Layout("images/{id}.jpg", "labelTxt/{id}.txt", kind="dota"),),
    protocols={"vhr10": Protocol(_VHR10_CLASSES, metric="AP50")},
    licence=_VHR10_LICENCE,
)
_VHR10_SEMANTIC = DatasetSpec(
    name="nwpu-vhr10-semantic",
    title="NWPU VHR-10 as a segmentation set",
    task="segmentation",
    layouts=(Layout("images/{id}.jpg", "masks_semantic/{id}.png"),),
    protocols={"vhr10": Protocol(("background", *_VHR10_CLASSES))},
    licence=_VHR10_LICENCE,
)
_DOTA_CLASSES = _words(
    "plane ship storage-tank baseball-diamond tennis-court basketball-court ground-track-field "
    "harbor bridge large-vehicle small-vehicle helicopter roundabout soccer-ball-field "
    "swimming-pool container-crane airport helipad"
)
_DOTA = DatasetSpec(
    name="dota",
    title="DOTA: rotated objects in aerial images",
    task="detection",
    layouts=(
        Layout(f"{{split}}/images/{_IMAGE}", "{split}/labelTxt/{id}.txt", kind="dota"),
        Layout(f"{{split}}/images/{_IMAGE}", "{split}/annfiles/{id}.txt", kind="dota"),
        Layout(f"images/{{split}}/{_IMAGE}", "labelTxt/{split}/{id}.txt", kind="dota"),
        Layout(f"images/{_IMAGE}", "labelTxt/{id}.txt", kind="dota"),
    ),
    protocols={
        "v1.0": Protocol(_DOTA_CLASSES[:15], tile_px=1024, metric="AP50"),
        "v1.5": Protocol(_DOTA_CLASSES[:16], tile_px=1024, metric="AP50"),
        "v2.0": Protocol(_DOTA_CLASSES, tile_px=1024, metric="AP50"),
        "s5": Protocol(
            _words(
                "large-vehicle swimming-pool helicopter bridge plane ship soccer-ball-field "
                "basketball-court ground-track-field small-vehicle baseball-diamond tennis-court "
                "roundabout storage-tank harbor container-crane airport helipad"
            ),
            tile_px=1024,
            metric="AP50",
            source="S5: DOTA-v2.0 in the order of its patch file",
        ),
    },
    splits={s: {"split": (s,)} for s in ("train", "val", "trainval")}
    | {"test": {"split": ("test", "test-dev")}},
    unlabelled=("test",),
    licence="academic use, non-commercial",
    where="CAPTAIN-WHU (DOTA)",
    notes="Scenes up to 20,000 px: cut into 1024 px patches with 200 px overlap for training.",
)
_DIOR_CLASSES = _words(
    "airplane airport baseballfield basketballcourt bridge chimney dam expressway-service-area "
    "expressway-toll-station golffield groundtrackfield harbor overpass ship stadium storagetank "
    "tenniscourt trainstation vehicle windmill"
)
_DIOR_S5 = _words(
    "airplane airport baseballfield basketballcourt bridge chimney expressway-service-area "
    "expressway-toll-station dam golffield groundtrackfield harbor overpass ship stadium "
    "storagetank tenniscourt trainstation vehicle windmill"
)


def _dior(name: str, title: str, kind: str, folders: tuple[str, ...]) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task="detection",
        layouts=tuple(
            Layout(
                "JPEGImages-{split}/{id}.jpg",
                f"Annotations/{folder}/{{id}}.xml",
                kind=kind,
                lists="ImageSets/Main/{split}.txt",
            )
            for folder in folders
        ),
        protocols={
            "dior": Protocol(_DIOR_CLASSES, metric="AP50", source="order of RSCoTr"),
            "s5": Protocol(_DIOR_S5, metric="AP50", source="S5: order of its DIOR-R config"),
        },
        splits={s: {"split": (s,)} for s in ("trainval", "test")},
        folder="DIOR",
        notes="Images are 800 x 800 px. train and val are lists inside trainval.",
    )


_DIOR = _dior("dior", "DIOR", "voc", ("hbb", "Horizontal Bounding Boxes"))
_DIOR_R = _dior("dior-r", "DIOR, rotated boxes", "voc-rotated", ("obb", "Oriented Bounding Boxes"))
_NEON = DatasetSpec(
    name="neon-trees",
    title="NEON airborne tree crowns",
    task="detection",
    layouts=(Layout(f"{_IMAGE}", "{id}.xml", kind="voc"),),
    protocols={"trees": Protocol(("tree", "alive", "dead"), metric="AP50")},
    gsd_m=0.1,
    licence="NEON airborne data, open",
    where="weecology/DeepForest on GitHub",
)

# Classification -----------------------------------------------------------------------------------
_EUROSAT = DatasetSpec(
    name="eurosat",
    title="EuroSAT, RGB",
    task="classification",
    layouts=(
        Layout(f"{{class}}/{_IMAGE}", kind="folders"),
        Layout(f"2750/{{class}}/{_IMAGE}", kind="folders"),
    ),
    protocols={
        "eurosat": Protocol(
            _words(
                "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop "
                "Residential River SeaLake"
            ),
            metric="accuracy",
        )
    },
    gsd_m=10.0,
    licence="MIT",
    where="phelber/EuroSAT on GitHub",
)
_RESISC_LAYOUTS = (
    Layout(f"{{split:train|val|test}}/{{class}}/{_IMAGE}", kind="folders"),
    Layout(f"{{class}}/{_IMAGE}", kind="folders"),
)
_RESISC45 = DatasetSpec(
    name="resisc45",
    title="NWPU-RESISC45",
    task="classification",
    layouts=_RESISC_LAYOUTS,
    protocols={
        "resisc45": Protocol(
            _words(
                "airplane airport baseball_diamond basketball_court beach bridge chaparral church "
                "circular_farmland cloud commercial_area dense_residential desert forest freeway "
                "golf_course ground_track_field harbor industrial_area intersection island lake "
                "meadow medium_residential mobile_home_park mountain overpass palace parking_lot "
                "railway railway_station rectangular_farmland river roundabout runway sea_ice ship "
                "snowberg sparse_residential stadium storage_tank tennis_court terrace "
                "thermal_power_station wetland"
            ),
            metric="accuracy",
            source="class folders in alphabetical order, as RSCoTr",
        )
    },
    splits={s: {"split": (s,)} for s in ("train", "val", "test")},
    licence="CC-BY-NC-4.0, as listed by TorchGeo",
    notes="Distributed without splits: swath data prepare resisc45 (swath-mtl) makes RSCoTr's.",
)
_RESISC12 = DatasetSpec(
    name="resisc12",
    title="NWPU-RESISC12: twelve merged classes of RESISC45",
    task="classification",
    layouts=_RESISC_LAYOUTS,
    protocols={
        "resisc12": Protocol(
            _words(
                "beach commercial_area desert farmland forest industrial_area island lake mountain "
                "residential river wetland"
            ),
            metric="accuracy",
        )
    },
    splits=_RESISC45.splits,
    licence=_RESISC45.licence,
    where="leewssam/NPU-RESISC45-Classification on GitHub",
)

_CORE = (
    _POTSDAM,
    _VAIHINGEN,
    _LOVEDA,
    _OPENEARTHMAP,
    _ISAID,
    _WHU,
    _KAMPALA,
    _DUBAI,
    _SEN1FLOODS11,
    _SEN1FLOODS11_S1,
    _VHR10,
    _VHR10_ROTATED,
    _VHR10_SEMANTIC,
    _DOTA,
    _DIOR,
    _DIOR_R,
    _NEON,
    _EUROSAT,
    _RESISC45,
    _RESISC12,
)


@cache
def catalogue() -> dict[str, DatasetSpec]:
    """Every data set that is known here, core's own and the plugins', by name.

    A plugin whose declaration can't be read is reported in a warning and left out.
    """
    known = {spec.name: spec for spec in _CORE}
    for plugin in plugins():
        for reference in plugin.get("datasets"):
            try:
                known |= {spec.name: spec for spec in _declared(reference)}
            except Exception as error:  # foreign code: reported by name, never fatal
                warnings.warn(
                    f"plugin '{plugin.name}': data set '{reference}' can't be used: {error}",
                    stacklevel=2,
                )
    return known


def _declared(reference: str) -> tuple[DatasetSpec, ...]:
    value = resolve(reference)
    return (value,) if isinstance(value, DatasetSpec) else tuple(value)


def dataset_spec(name: str, *, task: str | None = None) -> DatasetSpec:
    """A data set by name.

    Args:
        name: As `swath datasets` lists it.
        task: What it must be for, or None.

    Raises:
        DataError: If there is none of that name, or it is for another task.
    """
    known = catalogue()
    if name not in known:
        raise DataError(f"no data set is called '{name}'{suggest(name, list(known))}")
    spec = known[name]
    if task is not None and spec.task != task:
        raise DataError(f"'{name}' is a {spec.task} set, not one for {task}")
    return spec


def load_dataset(
    name: str, root: str | Path, split: str = "all", protocol: str | Protocol | None = None
) -> "SegmentationItems | DetectionItems | Any":
    """Read a split of a known data set.

    Args:
        name: As `swath datasets` lists it.
        root: Where the copy is; ``~`` and ``$VARIABLES`` are filled in.
        split: A split's name, ``"all"``, or a list file (one sample a line).
        protocol: How the labels are read; None takes the one that the copy's layout follows.

    Returns:
        A map-style data set of `swath.core.sample.Sample` with ``classes``, ``palette``,
        ``ignore_index`` and ``ids``.

    Raises:
        DataError: If the name, split or protocol is unknown, or the copy isn't laid out as known.
    """
    from swath.core.data.readers import resolve_root

    spec = dataset_spec(name)
    place, layout = spec.locate(resolve_root(root))
    if layout.reader is not None:
        return resolve(layout.reader)(place, layout, split)
    layout, items = spec.items(place, split)
    chosen = spec.protocol(protocol or layout.protocol)
    meta = {"dataset": name} | ({"gsd_m": spec.gsd_m} if spec.gsd_m else {})
    if layout.kind == "mask":
        from swath.core.data.segmentation import SegmentationItems

        return SegmentationItems(items, chosen, meta)
    if layout.kind == "folders":
        from swath.core.data.classification import ClassItems

        return ClassItems(items, chosen, meta)
    from swath.core.data.detection import DetectionItems

    return DetectionItems(items, chosen, layout.kind, meta)
