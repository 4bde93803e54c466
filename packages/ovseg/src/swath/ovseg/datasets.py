"""The data sets of GSNet and of OVRSISBench, as their papers read them; imports no torch.

Sources: `gs_net/data/datasets` of https://github.com/yecy749/GSNet, `RSKT_Seg/data/datasets` of
https://github.com/LiBingyu01/RSKT-Seg. Masks are read as they are stored, indices from 0.
"""

from collections.abc import Sequence

from swath.core.data.catalogue import catalogue
from swath.core.data.spec import RGB, DatasetSpec, Layout, Protocol
from swath.core.errors import DataError, suggest
from swath.ovseg import vocabularies

_GSNET = "GSNet; prepared copies are linked in its official README"
_OVRSIS = "OVRSISBench; linked in the official README of RSKT-Seg"
_IMAGE = "{id}.{ext:jpg|JPG|png}"

_DLRSD_RGB: tuple[RGB, ...] = (
    (166, 202, 240), (128, 128, 0), (0, 0, 128), (255, 0, 0), (0, 128, 0), (128, 0, 0),
    (255, 233, 233), (160, 160, 164), (0, 128, 128), (90, 87, 255), (255, 255, 0), (255, 192, 0),
    (0, 0, 255), (255, 0, 192), (128, 0, 128), (0, 255, 0), (0, 255, 255),
)  # fmt: skip
_ISAID_RGB: tuple[RGB, ...] = (
    (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255), (0, 127, 63),
    (0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127), (0, 127, 191),
    (0, 127, 255), (0, 100, 155),
)  # fmt: skip
_ISPRS_RGB: tuple[RGB, ...] = (
    (255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0),
)  # fmt: skip
_LOVEDA_RGB: tuple[RGB, ...] = (
    (255, 255, 255), (255, 248, 220), (100, 149, 237), (102, 205, 170), (205, 133, 63),
    (160, 32, 240), (255, 64, 64), (139, 69, 19),
)  # fmt: skip
_UAVID_RGB: tuple[RGB, ...] = (
    (0, 0, 0), (128, 0, 0), (128, 64, 128), (0, 128, 0), (128, 128, 0), (64, 0, 128),
    (192, 0, 192), (64, 64, 0),
)  # fmt: skip
_UDD5_RGB: tuple[RGB, ...] = (
    (107, 142, 35), (102, 102, 156), (128, 64, 128), (0, 0, 142), (0, 0, 0),
)  # fmt: skip
_VDD_RGB: tuple[RGB, ...] = (
    (0, 0, 0), (128, 0, 0), (128, 64, 128), (0, 128, 0), (64, 0, 128), (192, 192, 128), (0, 0, 128),
)  # fmt: skip


def _set(
    name: str,
    title: str,
    folder: str,
    layouts: tuple[Layout, ...],
    classes: tuple[str, ...],
    where: str,
    palette: tuple[RGB, ...] = (),
    ignore_index: int = 255,
    splits: tuple[str, ...] = (),
    notes: str = "",
) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task="segmentation",
        layouts=layouts,
        protocols={
            "published": Protocol(
                classes, palette, ignore_index, metric="mIoU and mACC", source=where
            )
        },
        splits={split: {"split": (split,)} for split in splits},
        folder=folder,
        where=where,
        notes=notes,
    )


def _benchmark(
    name: str, title: str, folder: str, classes: tuple[str, ...], palette: tuple[RGB, ...]
) -> DatasetSpec:
    """A set of OVRSISBench with images and masks in ``imgs`` and ``D2masks``."""
    return _set(
        f"ovrsis-{name}",
        f"{title}, as in OVRSISBench",
        folder,
        (Layout(f"imgs/{_IMAGE}", "D2masks/{id}.png"),),
        classes,
        _OVRSIS,
        palette,
    )


def _train_set(
    name: str, title: str, folder: str, classes: tuple[str, ...], palette: tuple[RGB, ...]
) -> DatasetSpec:
    """One that models are trained on too, and that then comes in two splits."""
    return _set(
        f"ovrsis-{name}",
        f"{title}, as in OVRSISBench",
        folder,
        (
            Layout(f"imgs/{_IMAGE}", "D2masks/{id}.png"),
            Layout(f"{{split}}/imgs/{_IMAGE}", "{split}/D2masks/{id}.png"),
        ),
        classes,
        _OVRSIS,
        palette,
        splits=("train", "val"),
        notes=f"{folder} holds all images, {folder}_split its two parts.",
    )


LANDDISCOVER = _set(
    "landdiscover50k",
    "LandDiscover50K",
    "LandDiscover50K",
    (Layout("TR_Image/{id}.png", "GT_ID/{id}.png"),),
    vocabularies.LANDDISCOVER,
    _GSNET,
    ignore_index=0,
    notes=(
        "Class 0, background, is in the list of prompts but no pixel is ever trained as it. The "
        "archive comes in parts: `swath data prepare landdiscover` joins them."
    ),
)

GSNET_TESTS = (
    _set(
        "gsnet-floodnet",
        "FloodNet, as GSNet tests on it",
        "FloodNet",
        (Layout("val+test/img/{id}.jpg", "val+test/lbl/{id}.png"),),
        vocabularies.FLOODNET,
        _GSNET,
        ignore_index=0,
        notes="Background is ignored, but predicting it elsewhere costs recall.",
    ),
    _set(
        "gsnet-flair",
        "FLAIR, as GSNet tests on it",
        "FLAIR",
        (Layout("test/image/{id}.png", "test/mask/{id}.png"),),
        vocabularies.FLAIR,
        _GSNET,
        ignore_index=12,
    ),
    _set(
        "gsnet-fast",
        "FAST, as GSNet tests on it",
        "FAST",
        (
            Layout("val/images/{id}.png", "val/semlabels/gray/{id}.png"),
            Layout("val/images/{id}.png", "val/semlabels/{id}.png"),
            Layout("SAMRS/FAST/val/images/{id}.png", "SAMRS/FAST/val/semlabels/gray/{id}.png"),
        ),
        vocabularies.FAST,
        _GSNET,
    ),
    _set(
        "gsnet-potsdam",
        "Potsdam, as GSNet tests on it",
        "PotsdamSplit",
        (Layout("img_dir/val/{id}.png", "ann_dir/val/{id}.png"),),
        vocabularies.POTSDAM,
        _GSNET,
        _ISPRS_RGB[:5],
        ignore_index=5,
        notes="Clutter is ignored.",
    ),
)

OVRSIS_BENCH = (
    _train_set("dlrsd", "DLRSD", "DLRSD", vocabularies.DLRSD, _DLRSD_RGB),
    _train_set("isaid", "iSAID", "iSAID", vocabularies.ISAID, _ISAID_RGB),
    _benchmark("potsdam", "ISPRS Potsdam", "Potsdam", vocabularies.ISPRS, _ISPRS_RGB),
    _benchmark("vaihingen", "ISPRS Vaihingen", "Vaihingen", vocabularies.ISPRS, _ISPRS_RGB),
    _set(
        "ovrsis-loveda",
        "LoveDA, as in OVRSISBench",
        "LoveDA",
        (Layout("images_png/{id}.png", "masks_png/{id}.png"),),
        vocabularies.LOVEDA,
        _OVRSIS,
        _LOVEDA_RGB,
        notes="The class no-data is scored.",
    ),
    _set(
        "ovrsis-uavid",
        "UAVid, as in OVRSISBench",
        "uavid",
        (Layout("Images/{id}.png", "Labels/{id}.png"),),
        vocabularies.UAVID,
        _OVRSIS,
        _UAVID_RGB,
    ),
    _set(
        "ovrsis-udd5",
        "UDD5, as in OVRSISBench",
        "UDD5",
        (
            Layout(f"all/src/{_IMAGE}", "all/gt/{id}.png"),
            Layout("{split}/src/{id}.JPG", "{split}/gt/{id}.png"),
        ),
        vocabularies.UDD5,
        _OVRSIS,
        _UDD5_RGB,
        splits=("train", "val"),
        notes="The original comes in train and val; the benchmark puts both into a folder all.",
    ),
    _set(
        "ovrsis-vdd",
        "VDD, as in OVRSISBench",
        "VDD",
        (Layout(f"src/{_IMAGE}", "gt/{id}.png"),),
        vocabularies.VDD,
        _OVRSIS,
        _VDD_RGB,
    ),
)

DATASETS = (LANDDISCOVER, *GSNET_TESTS, *OVRSIS_BENCH)

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "gsnet": tuple(spec.name for spec in GSNET_TESTS),
    "ovrsisbench": tuple(spec.name for spec in OVRSIS_BENCH),
}
"""Data sets that are tested together, by name."""


def data_sets(names: Sequence[str]) -> list[str]:
    """Data sets by name, short name (``"floodnet"``) or benchmark (``"ovrsisbench"``), each once.

    Raises:
        DataError: If nobody knows a name.
    """
    known = {name: name for name in catalogue()}
    for spec in DATASETS[::-1]:  # GSNet's come first, and keep their short names
        known[spec.name.split("-", 1)[-1]] = spec.name
    found: dict[str, None] = {}
    for name in names:
        if name in BENCHMARKS:
            found |= dict.fromkeys(BENCHMARKS[name])
        elif name in known:
            found[known[name]] = None
        else:
            choices = [*BENCHMARKS, *known]
            raise DataError(f"no data set is called '{name}'{suggest(name, choices)}")
    return list(found)
