"""The building blocks of a report: small functions that return HTML, and the page around them.

Everything is inline: style, charts (SVG) and pictures (base64). A page needs no network and no
script, except one expression that moves the overlay's opacity.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from swath.core.errors import DataError
from swath.core.files import atomic_path
from swath.core.palette import Colour
from swath.core.viz.figures import figure_svg
from swath.core.viz.overlay import Rgb

MAX_BYTES = 5_000_000
"""A report is never larger than this."""


@dataclass(frozen=True)
class Section:
    """One card of the page: a title and what the functions of this module return."""

    title: str
    body: str


def write_report(
    path: str | Path,
    *,
    title: str,
    lead: str = "",
    figures: Mapping[str, str] | None = None,
    sections: Sequence[Section],
) -> Path:
    """Write one self-contained HTML page.

    Args:
        path: Where to; the file appears only when it is whole.
        title: Heading.
        lead: A sentence or two below it.
        figures: Headline figures by name, already formatted; the first is the main one.
        sections: The cards, in order.

    Returns:
        The path.

    Raises:
        DataError: If the page would exceed `MAX_BYTES`.
    """
    style = files("swath.core.viz").joinpath("report.css").read_text(encoding="utf-8")
    tiles = "".join(
        f"<div><b>{_text(value)}</b><span>{_text(name)}</span></div>"
        for name, value in (figures or {}).items()
    )
    cards = "\n".join(f"<section><h2>{_text(s.title)}</h2>\n{s.body}\n</section>" for s in sections)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>
{style}</style>
</head>
<body><main>
<header>
<div class="mark">SWATH</div>
<h1>{_text(title)}</h1>
<p class="lead">{_text(lead)}</p>
</header>
<div class="headline">{tiles}</div>
{cards}
<footer>Written by Swath. This page is one file and needs no network.</footer>
</main></body>
</html>
"""
    data = page.encode()
    if len(data) > MAX_BYTES:
        raise DataError(
            f"{path}: the report would be {len(data) / 1e6:.1f} MB, more than "
            f"{MAX_BYTES / 1e6:.0f} MB; show fewer examples"
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def paragraph(text: str, *, note: bool = False) -> str:
    """A paragraph; a note is smaller and paler."""
    return f"<p{' class=note' if note else ''}>{_text(text)}</p>"


def facts(items: Mapping[str, object]) -> str:
    """Names and values in columns; items that are None are left out."""
    rows = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
        for name, value in items.items()
        if value is not None
    )
    return f'<dl class="facts">{rows}</dl>'


def chart(figure: Figure, caption: str = "") -> str:
    """A matplotlib figure as inline SVG in the page's colours."""
    below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure class="chart">{figure_svg(figure)}{below}</figure>'


def side_by_side(*blocks: str) -> str:
    """Blocks beside one another where the window is wide enough."""
    return f'<div class="pair">{"".join(f"<div>{block}</div>" for block in blocks)}</div>'


def class_table(
    classes: Sequence[str],
    columns: Mapping[str, Sequence[float | str | None]],
    *,
    palette: Sequence[Colour] | None = None,
    bar: str | None = None,
    of: str = "class",
) -> str:
    """One row per class.

    Args:
        classes: Row names.
        columns: Values by column name; numbers are shown as given by `number`, None as a dash.
        palette: A colour swatch per class.
        bar: Column, of values in [0, 1], that is drawn as a bar as well.
        of: What the rows are, above their names.
    """
    head = "".join(
        f"<th>{_text(name)}</th>" + ("<th></th>" if name == bar else "") for name in columns
    )
    rows = []
    for i, name in enumerate(classes):
        cells = [f"<td>{swatch(palette[i]) if palette else ''}{_text(name)}</td>"]
        for column, values in columns.items():
            value = values[i]
            cells.append(f"<td>{_text(value if isinstance(value, str) else number(value))}</td>")
            if column == bar:
                share = value if isinstance(value, float) and np.isfinite(value) else 0.0
                cells.append(f'<td class="bar"><i style="--share:{100 * share:.1f}%"></i></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><tr><th>{_text(of)}</th>{head}</tr>\n'
        + "\n".join(rows)
        + "</table></div>"
    )


def number(value: float | None) -> str:
    """A figure for people: three decimals, whole numbers and large ones with thin spaces."""
    if value is None or not np.isfinite(value):
        return "\N{EN DASH}"
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace(",", "\N{THIN SPACE}")
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}".replace(",", "\N{THIN SPACE}")


def swatch(colour: Colour) -> str:
    """A small square of a colour."""
    return f'<span class="swatch" style="background:rgb{tuple(int(c) for c in colour)}"></span>'


def legend_list(classes: Sequence[str], palette: Sequence[Colour]) -> str:
    """Class names with their colours, in a line that wraps."""
    items = "".join(
        f"<li>{swatch(colour)}{_text(name)}</li>"
        for name, colour in zip(classes, palette, strict=True)
    )
    return f'<ul class="legend">{items}</ul>'


def picture(image: Rgb, *, alt: str, side: int = 256) -> str:
    """An ``<img>`` of a photograph, as JPEG, made smaller to fit ``side`` pixels."""
    shown = Image.fromarray(np.ascontiguousarray(image))
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _img(shown, alt, "JPEG", quality=86)


def mask_picture(mask: npt.ArrayLike, palette: Sequence[Colour], *, alt: str, side: int) -> str:
    """An ``<img>`` of a class map, as a small palette PNG; values without a class are clear."""
    shown = _mask_image(mask, palette)
    shown.thumbnail((side, side), Image.Resampling.NEAREST)
    return _img(shown, alt, "PNG", optimize=True, transparency=255)


def _mask_image(mask: npt.ArrayLike, palette: Sequence[Colour]) -> Image.Image:
    classes = np.asarray(mask)
    known = (classes >= 0) & (classes < min(len(palette), 255))
    image = Image.fromarray(np.where(known, classes, 255).astype(np.uint8), mode="P")
    # all 256 entries: a short palette is stored with fewer bits a pixel, and 255 is lost
    colours = [channel for colour in palette[:255] for channel in colour]
    image.putpalette(colours + [0] * (768 - len(colours)))
    return image


def examples(
    rows: Sequence[tuple[str, str, Sequence[str]]],
    columns: Sequence[str] = ("image", "truth", "prediction", "errors"),
) -> str:
    """A grid of pictures.

    Args:
        rows: Name, remark, and the row's pictures (``<img>``, one per column).
        columns: Their headings.
    """
    head = "<b></b>" + "".join(f"<b>{_text(name)}</b>" for name in columns)
    body = "".join(
        f"<span>{_text(name)}<small>{_text(remark)}</small></span>{''.join(images)}"
        for name, remark, images in rows
    )
    return f'<div class="examples" style="--pictures:{len(columns)}">{head}{body}</div>'


def layers(
    image: Rgb, mask: npt.ArrayLike, palette: Sequence[Colour], *, caption: str, side: int = 1400
) -> str:
    """A picture with its class map on top and a slider for the map's opacity."""
    move = "this.closest('figure').style.setProperty('--opacity', this.value)"
    return (
        f'<figure class="layers"><div class="stack">{picture(image, alt="image", side=side)}'
        f"{mask_picture(mask, palette, alt='class map', side=side)}</div>"
        '<label>image <input type="range" min="0" max="1" step="0.01" value="0.6" '
        f'aria-label="opacity of the class map" oninput="{move}"> class map</label>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def folded(summary: str, text: str) -> str:
    """Preformatted text that opens on a click."""
    return f"<details><summary>{_text(summary)}</summary><pre>{_text(text)}</pre></details>"


def commands(items: Mapping[str, str]) -> str:
    """Shell commands by what they do."""
    return "".join(
        f"<div>{_text(purpose)}</div><pre>{_text(command)}</pre>"
        for purpose, command in items.items()
    )


def _img(image: Image.Image, alt: str, kind: str, **options: int | bool) -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{_text(alt)}" src="data:image/{kind.lower()};base64,{data}">'


def _text(value: object) -> str:
    return html.escape(str(value))
