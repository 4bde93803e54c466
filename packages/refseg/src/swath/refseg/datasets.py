"""The data sets of RemoteSAM's training and of its eight evaluations, as data; imports no torch.

Folders are those of the official scripts (`tasks/*.sh` and README of
https://github.com/1e12Leon/RemoteSAM) or of the sets' own repositories. iSAID, DIOR and DOTA in
their usual forms are in core's catalogue.

Source:
    Dossier section 5; readme of https://github.com/ZhanYang-nwpu/RSVG-pytorch.
"""

from swath.core.data.spec import DatasetSpec, Layout, Protocol
from swath.refseg import sets

_IMAGE = "{id}.{ext:jpg|jpeg|png|tif}"
_SPLITS = ("train", "val", "test")


def _set(
    name: str,
    title: str,
    task: str,
    layouts: tuple[Layout, ...],
    protocols: dict[str, Protocol],
    splits: tuple[str, ...] = _SPLITS,
    folder: str = "",
    licence: str | None = None,
    where: str | None = None,
    notes: str = "",
) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task=task,
        layouts=layouts,
        protocols=protocols,
        splits={split: {} for split in splits},
        folder=folder,
        licence=licence,
        where=where,
        notes=notes,
    )


_MASKS = {"masks": Protocol(("background", "object"), metric="oIoU")}


def _refer(images: str, refs: str) -> Layout:
    return Layout(images, refs, "refs", reader="swath.refseg.data.refer:read_refer")


def _phrases(images: str, masks: str) -> Layout:
    return Layout(
        images,
        masks,
        "phrases",
        lists="output_phrase_{split}.txt",
        reader="swath.refseg.data.refer:read_phrases",
    )


REMOTESAM_270K = _set(
    "remotesam-270k",
    "RemoteSAM-270K: 273,676 triplets of image, sentence and mask",
    "referring",
    (_refer(f"JPEGImages/{_IMAGE}", "refs(unc).p"),),
    _MASKS,
    folder="RemoteSAM-270K",
    where="the data set 1e12Leon/RemoteSAM_270K on the Hugging Face Hub",
    notes=(
        "Images without what a sentence means are part of it. The pickle of refs is read without "
        "being run; swath refseg convert-refs turns it into JSON for good."
    ),
)
RRSIS_D = _set(
    "rrsis-d",
    "RRSIS-D: referring segmentation on DIOR's images",
    "referring",
    (
        _refer(f"images/rrsisd/JPEGImages/{_IMAGE}", "rrsisd/refs(unc).p"),
        _refer(f"JPEGImages/{_IMAGE}", "refs(unc).p"),
    ),
    _MASKS,
    where="Lsan2401/RMSIN on GitHub",
    notes=(
        "A few images differ from their masks by some pixels, which are fitted. What "
        "swath refseg build writes is read like this set."
    ),
)
REFSEGRS = _phrases("images/{id}.tif", "masks/{id}.tif")
"""Where the files of RefSegRS lie."""

REFSEGRS_SET = _set(
    "refsegrs",
    "RefSegRS: referring segmentation, 512 px",
    "referring",
    (REFSEGRS,),
    _MASKS,
    folder="RefSegRS",
    licence="CC-BY-4.0",
    where="the data set JessicaYuan/RefSegRS on the Hugging Face Hub",
)
RISBENCH = _set(
    "risbench",
    "RISBench: referring segmentation, 52,472 triplets, 512 px",
    "referring",
    (_phrases("img_rgb/{id}.png", "mask/{id}.png"),),
    _MASKS,
    folder="RISBench_dataset",
    licence="CC-BY-4.0",
    where="HIT-SIRS/CroBIM on GitHub",
    notes="The layout is that which other projects' readers expect; no copy was at hand.",
)
DIOR_RSVG = _set(
    "dior-rsvg",
    "DIOR-RSVG: sentences with boxes",
    "grounding",
    (
        Layout(
            "JPEGImages/{id}.jpg",
            "Annotations/{id}.xml",
            "sentences in XML",
            lists="{split}.txt",
            reader="swath.refseg.data.refer:read_rsvg",
        ),
    ),
    {"boxes": Protocol(("object",), metric="Pr@0.5")},
    folder="DIOR_RSVG",
    where="ZhanYang-nwpu/RSVG-pytorch on GitHub",
)
DIOR_COCO = _set(
    "dior-coco",
    "DIOR as COCO JSON, as RemoteSAM is judged on it",
    "detection",
    (
        Layout(
            "JPEGImages/{id}.jpg",
            kind="coco",
            lists="Annotations/DIOR_{split}.json",
            reader="swath.refseg.data.texts:read_coco_split",
        ),
    ),
    {"dior": Protocol(sets.DIOR, metric="AP")},
    splits=("test",),
    folder="DIORcoco",
    notes="Detection and multi-label classification. DIOR as distributed is the set dior.",
)
UCM_CAPTIONS = _set(
    "ucm-captions",
    "UCM-Captions: five sentences about each image of UC Merced",
    "captioning",
    tuple(
        Layout(
            f"{folder}/{_IMAGE}",
            "dataset.json",
            "captions",
            reader="swath.refseg.data.texts:read_captions",
        )
        for folder in ("Images", "imgs")
    ),
    {"captions": Protocol((), metric="CIDEr")},
    folder="UCM_captions",
    where="201528014227051/RSICD_optimal on GitHub",
)


def _counting(name: str, title: str, folder: str, notes: str = "") -> DatasetSpec:
    return _set(
        name,
        title,
        "counting",
        tuple(
            Layout(
                f"{place}Images/{_IMAGE}",
                f"{place}Annotation/test_IMG_CT.json",
                "questions",
                reader="swath.refseg.data.texts:read_counting",
            )
            for place in ("", folder)
        ),
        {"questions": Protocol((), metric="accuracy")},
        splits=("test",),
        folder="Counting",
        notes=f"Conversations in the form of Falcon's data. {notes}".strip(),
    )


COUNTING_DIOR = _counting(
    "counting-dior", "Questions after the number of objects in DIOR's images", "test/DIOR/"
)
COUNTING_DOTA = _counting(
    "counting-dota",
    "Questions after the number of objects in DOTA's images",
    "test/DOTA/",
    "The folder is named after DIOR's; no official script names it.",
)


_UCM = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral",
    "denseresidential", "forest", "freeway", "golfcourse", "harbor", "intersection",
    "mediumresidential", "mobilehomepark", "overpass", "parkinglot", "river", "runway",
    "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
_AID = (
    "Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial",
    "DenseResidential", "Desert", "Farmland", "Forest", "Industrial", "Meadow",
    "MediumResidential", "Mountain", "Park", "Parking", "Playground", "Pond", "Port",
    "RailwayStation", "Resort", "River", "School", "SparseResidential", "Square", "Stadium",
    "StorageTanks", "Viaduct",
)  # fmt: skip


def _by_folder(names: tuple[str, ...], source: str) -> Protocol:
    return Protocol(names, metric="accuracy", source=source)


UCM = _set(
    "ucm",
    "UC Merced Land Use, 21 classes",
    "classification",
    (
        Layout(f"Images/{{class}}/{_IMAGE}", kind="folders"),
        Layout(f"{{class}}/{_IMAGE}", kind="folders"),
    ),
    {"ucm": _by_folder(_UCM, "class folders in alphabetical order")},
    splits=(),
    folder="UCMerced_LandUse",
)
AID = _set(
    "aid",
    "AID: aerial scenes, 30 classes",
    "classification",
    (
        Layout(rf"{{class:[A-Z]\w+}}/{_IMAGE}", kind="folders"),
        Layout(rf"{{class:[a-z]\w+}}/{_IMAGE}", kind="folders", protocol="lower"),
    ),
    {
        "aid": _by_folder(_AID, "class folders in alphabetical order"),
        "lower": _by_folder(
            tuple(name.lower() for name in _AID),
            "the same in lower case, as RemoteSAM's evaluation wants the folders called",
        ),
    },
    splits=(),
    folder="AID",
)

DATASETS = (
    REMOTESAM_270K,
    RRSIS_D,
    REFSEGRS_SET,
    RISBENCH,
    DIOR_RSVG,
    DIOR_COCO,
    UCM_CAPTIONS,
    COUNTING_DIOR,
    COUNTING_DOTA,
    UCM,
    AID,
)
