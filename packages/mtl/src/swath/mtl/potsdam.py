"""Potsdam's infrared scenes, cut as mmsegmentation's converter does it for RSCoTr."""

from pathlib import Path

from swath.core.data.catalogue import dataset_spec
from swath.core.data.prepare import Prepared, Recipe, prepare
from swath.core.data.spec import Layout, Protocol

BLACK = (0, 0, 0)


def _stored() -> Protocol:
    """Colours as numbers: 0 the boundary, 1 to 6 the classes."""
    rgb = dataset_spec("potsdam").protocol("rgb")
    return Protocol(
        ("boundary", *rgb.classes),
        (BLACK, *rgb.palette),
        mapping=((BLACK, 0), *((colour, i + 1) for i, colour in enumerate(rgb.palette))),
    )


def prepare_irrg(
    root: str | Path, out: str | Path, *, workers: int | None = None, progress: bool = False
) -> Prepared:
    """Cut 512 px tiles without overlap, but for the last of a row and a column.

    Args:
        root: The set as distributed: ``3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif`` and so on,
            ``5_Labels_all/top_potsdam_2_10_label.tif`` and so on.
        out: Gets ``img_IRRG/{train,val}`` and ``ann_all/{train,val}``, tiles by
            ``area_left_top_right_bottom.png``, 144 of each scene; the catalogue reads it.
        workers: Scenes at the same time.
        progress: Show a bar.

    Raises:
        DataError: See `swath.core.data.prepare.prepare`.

    Source:
        RSCoTr dossier 3. The converter's stride of 256 is what it says, not what it does.
    """
    recipe = Recipe(
        Layout(
            r"3_Ortho_IRRG/top_potsdam_{tile:\d+_\d+}_IRRG.tif",
            "5_Labels_all/top_potsdam_{tile}_label.tif",
        ),
        "img_IRRG/{split}/{tile}_{x}_{y}_{x1}_{y1}.png",
        "ann_all/{split}/{tile}_{x}_{y}_{x1}_{y1}.png",
        size=512,
        overlap=0,
        overlap_val=0,
        protocol=_stored(),
        source_text="mmsegmentation's converter, as RSCoTr uses it: 512 px, no overlap",
    )
    return prepare("potsdam", root, out, workers=workers, progress=progress, recipe=recipe)
