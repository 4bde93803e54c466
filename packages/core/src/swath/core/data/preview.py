"""A contact sheet of a data set: pictures with their labels, and a legend."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from swath.core.errors import DataError
from swath.core.files import atomic_path
from swath.core.sample import Sample
from swath.core.viz import display_rgb, overlay
from swath.kernels import boxes_to_quads, hbb_to_boxes

Rgb = NDArray[np.uint8]

_GAP = 8
_TITLE = 18
_BACK = (250, 250, 248)
_INK = (40, 40, 40)


def contact_sheet(
    dataset: Any, out: str | Path, *, count: int = 12, columns: int = 4, cell_px: int = 320
) -> Path:
    """Render samples spread over a data set, each as it is and with its labels.

    Masks are laid over the picture, boxes drawn round the objects, class names written below.
    Pictures of another radiometry than 8-bit RGB are stretched for display.

    Args:
        dataset: A map-style data set with ``classes``, ``palette`` and ``ids``.
        out: The picture to write; its suffix says in which format.
        count: How many samples, at least 1.
        columns: Samples in a row.
        cell_px: Longer side of each picture.

    Returns:
        ``out``.

    Raises:
        DataError: If the data set is empty, a sample can't be read, or the format is unknown.
    """
    if not len(dataset) or count < 1:
        raise DataError(f"nothing to preview: {len(dataset)} samples, {count} asked for")
    path = Path(out)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise DataError(f"{path}: a contact sheet is a .png, .jpg or .webp")
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round())
    cells = [_cell(dataset, int(i), cell_px) for i in chosen]
    columns = min(columns, len(cells))
    width = max(cell.width for cell in cells)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + _GAP for row in rows]
    legend = _legend(dataset.classes, dataset.palette, columns * (width + _GAP))
    size = (columns * (width + _GAP) + _GAP, sum(heights) + _GAP + legend.height)
    sheet = Image.new("RGB", size, _BACK)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (width + _GAP), top))
        top += height
    sheet.paste(legend, (_GAP, top))
    with atomic_path(path) as temporary:
        sheet.save(temporary)
    return path


def _cell(dataset: Any, index: int, cell_px: int) -> Image.Image:
    """One sample: the picture, beside it (masks) or on it (boxes) its labels, and its id."""
    sample: Sample = dataset[index]
    valid = None if sample.valid is None else sample.valid.numpy()
    picture = display_rgb(sample.image.numpy(), valid)
    scale = cell_px / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    plain = Image.fromarray(picture).resize(size, Image.Resampling.BOX if scale < 1 else 0)
    panels = [plain]
    title = _said(sample) or dataset.ids[index]
    if "mask" in sample.targets:
        mask = Image.fromarray(sample.targets["mask"].numpy().astype(np.int32)).resize(size, 0)
        black = [i for i, colour in enumerate(dataset.palette) if not any(colour)]
        painted = overlay(np.asarray(plain), np.asarray(mask), dataset.palette, 0.6, hide=black)
        panels.append(Image.fromarray(painted))
    if "boxes" in sample.targets:
        panels = [_with_boxes(plain, sample, dataset.palette, scale)]
        title += f"  ({len(sample.targets['boxes'])})"
    if "label" in sample.targets:
        title = f"{dataset.classes[sample.targets['label']]}: {title.rpartition('/')[2]}"
    cell = Image.new(
        "RGB", (sum(p.width for p in panels) + len(panels) - 1, size[1] + _TITLE), _BACK
    )
    left = 0
    for panel in panels:
        cell.paste(panel, (left, 0))
        left += panel.width + 1
    _write(cell, (0, size[1] + 2), title)
    return cell


def _said(sample: Sample) -> str | None:
    """What words say of a sample: its sentence, its first caption, or what is counted."""
    targets = sample.targets
    if "captions" in targets:
        return str(targets["captions"][0])
    if "count" in targets:
        return f"{targets['name']}: {targets['count']}"
    return targets.get("sentence")


def _with_boxes(
    picture: Image.Image, sample: Sample, palette: Sequence[Any], scale: float
) -> Image.Image:
    boxes = sample.targets["boxes"].as_subclass(Tensor)
    quads = boxes_to_quads(boxes if boxes.shape[1] == 5 else hbb_to_boxes(boxes))
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    for quad, label in zip(quads.tolist(), sample.targets["labels"].tolist(), strict=True):
        outline = [(x * scale, y * scale) for x, y in quad]
        pen.line([*outline, outline[0]], fill=(0, 0, 0), width=4)
        pen.line([*outline, outline[0]], fill=tuple(palette[label]), width=2)
    return drawn


def _legend(classes: Sequence[str], palette: Sequence[Any], width: int) -> Image.Image:
    """Class names beside their colours, flowing over as many lines as they need."""
    font = ImageFont.load_default(13)
    places, x, y = [], 0, 4
    for name in classes:
        need = int(font.getlength(name)) + 36
        if x + need > width and x:
            x, y = 0, y + 22
        places.append((x, y))
        x += need
    legend = Image.new("RGB", (width, y + 28), _BACK)
    pen = ImageDraw.Draw(legend)
    for (left, top), name, colour in zip(places, classes, palette, strict=True):
        pen.rectangle((left, top, left + 14, top + 14), fill=tuple(colour), outline=(90, 90, 90))
        pen.text((left + 20, top), name, fill=_INK, font=font)
    return legend


def _write(image: Image.Image, place: tuple[int, int], text: str) -> None:
    font = ImageFont.load_default(12)
    while len(text) > 4 and font.getlength(text) > image.width:
        text = "..." + text[4:]
    ImageDraw.Draw(image).text(place, text, fill=_INK, font=font)
