"""The report of a preparation: what went in, what came out, and how it looks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swath.core.viz import page
from swath.core.viz.figures import INK, curve
from swath.core.viz.overlay import overlay
from swath.core.viz.page import Section
from swath.pretrain.rs4p.dataset import ShardDataset

REPORT = "report.html"

_SHOWN = 12
_SHOWN_BROKEN = 200
_SIDE = 288
_OPACITY = 0.55

_MEANING = {
    "kept": "kept",
    "empty": "empty: no data, black or one colour",
    "duplicate": "near-duplicate of an earlier one",
    "doubtful": "the model isn't sure",
    "surplus": "thinned out for class balance",
    "broken": "unreadable",
}


def write_report(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Write ``report.html`` beside the shards.

    Args:
        folder: With shards and index.
        manifest: What ``manifest.json`` says.

    Returns:
        The path.
    """
    dataset = ShardDataset(folder, labels=True, manifest=manifest)
    total = max(sum(manifest["tiles"].values()), 1)
    scenes = manifest["scenes"]
    sections = [
        Section("What became of the tiles", _fates(manifest["tiles"], total)),
        Section("Classes", _classes(manifest)),
        Section("Confidence", _confidence(manifest)),
        Section("Samples", _samples(dataset)),
        Section("How it was made", _how(manifest)),
    ]
    if manifest["broken"]:
        listed = manifest["broken"]
        text = "\n".join(f"{b['scene']}: {b['reason']}" for b in listed[:_SHOWN_BROKEN])
        more = (
            f"\n... and {len(listed) - _SHOWN_BROKEN} more" if len(listed) > _SHOWN_BROKEN else ""
        )
        summary = f"{len(listed)} scenes that can't be read"
        sections.append(Section("Broken scenes", page.folded(summary, text + more)))
    return page.write_report(
        folder / REPORT,
        title="Unlabelled imagery, prepared",
        lead=f"Pseudo-labels for pre-training, by: {manifest['request']['model']['title']}.",
        figures={
            "samples": page.number(manifest["samples"]),
            "shards": page.number(len(manifest["shards"])),
            "scenes found": page.number(scenes["found"]),
            "tiles cut": page.number(total),
            "tiles kept": f"{manifest['samples'] / total:.0%}",
        },
        sections=sections,
    )


def _fates(tiles: Mapping[str, int], total: int) -> str:
    names = [name for name in _MEANING if tiles[name]]
    return page.class_table(
        [_MEANING[name] for name in names],
        {"tiles": [tiles[n] for n in names], "share": [tiles[n] / total for n in names]},
        bar="share",
        of="tiles that are ...",
    )


def _classes(manifest: Mapping[str, Any]) -> str:
    pixels, before = manifest["pixels"], manifest["pixels_before_balance"]
    columns: dict[str, Sequence[Any]] = {
        "share of pixels": _shares(pixels),
        "tiles with it": manifest["tiles_with_class"],
    }
    if before != pixels:
        columns["share before balance"] = _shares(before)
    note = page.paragraph(
        "By pseudo-label. A tile has a class if a hundredth of it or more is of that class.",
        note=True,
    )
    table = page.class_table(
        manifest["classes"], columns, palette=_palette(manifest), bar="share of pixels"
    )
    return note + table


def _confidence(manifest: Mapping[str, Any]) -> str:
    """What each threshold would keep, so that the next one can be chosen."""
    recipe = manifest["request"]["recipe"]
    pixels = _at_least(manifest["pixels_by_confidence"])
    tiles = _at_least(manifest["tiles_by_percent_sure"])
    left = curve(
        {"pixels": (np.linspace(0, 1, len(pixels)).tolist(), pixels)},
        x_label="confidence (--confidence)",
        y_label="share of pixels at or above",
    )
    right = curve(
        {"tiles": (np.linspace(0, 1, len(tiles)).tolist(), tiles)},
        x_label=f"share of sure pixels, from {recipe['confidence']:g} (--min-confident)",
        y_label="share of tiles at or above",
    )
    chosen = (left, recipe["confidence"]), (right, recipe["min_confident"])
    for figure, threshold in chosen:
        axes = figure.axes[0]
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.axvline(threshold, color=INK, linewidth=1, linestyle="--", alpha=0.6)
    note = page.paragraph(
        "Of all tiles that were labelled. Dashed: the thresholds of this run.", note=True
    )
    return note + page.side_by_side(page.chart(left), page.chart(right))


def _at_least(counts: Sequence[int]) -> list[float]:
    """Share of what lies in each bin or above it."""
    above = np.cumsum(np.asarray(counts)[::-1])[::-1]
    shares: list[float] = (above / max(int(above[0]), 1)).tolist()
    return shares


def _samples(dataset: ShardDataset) -> str:
    """Samples spread over all shards, each with its pseudo-labels and their confidence."""
    rows = []
    for i in np.unique(np.linspace(0, len(dataset) - 1, min(_SHOWN, len(dataset))).round()):
        sample, about = dataset[int(i)], dataset.about(int(i))
        image = sample.image.numpy().transpose(1, 2, 0)
        mask = sample.targets["mask"].numpy()
        black = [k for k, colour in enumerate(dataset.palette) if not any(colour)]
        painted = overlay(image, mask, dataset.palette, _OPACITY, hide=black)
        confidence = sample.targets["confidence"].numpy()
        images = [
            page.picture(image, alt="image", side=_SIDE),
            page.picture(painted, alt="pseudo-labels", side=_SIDE),
            page.picture(np.repeat(confidence[..., None], 3, axis=2), alt="confidence", side=_SIDE),
        ]
        remark = f"mean confidence {about['confidence']:.2f}"
        rows.append((_shortened(about["source"]), remark, images))
    note = page.paragraph("Spread over all shards. Confidence: white is 1, black 0.", note=True)
    grid = page.examples(rows, ("image", "pseudo-labels", "confidence"))
    return note + grid + page.legend_list(dataset.classes, dataset.palette)


def _how(manifest: Mapping[str, Any]) -> str:
    request = manifest["request"]
    recipe, scenes = request["recipe"], manifest["scenes"]
    kept_duplicates = recipe["duplicate_bits"] < 0
    return page.facts(
        {
            "model": request["model"]["title"],
            "its weights": request["model"]["sha256"][:16],
            "tile": f"{recipe['tile']} px",
            "scenes too small": scenes["too small"] or None,
            "bands": recipe["bands"],
            "scale": recipe["scale"],
            "duplicates": "kept" if kept_duplicates else f"within {recipe['duplicate_bits']} bits",
            "sure": f"{recipe['min_confident']:.0%} of pixels from {recipe['confidence']:g}",
            "balance": f"{recipe['balance']:g}" if recipe["balance"] < 1 else "off",
            "software": ", ".join(f"{k} {v}" for k, v in request["versions"].items()),
        }
    )


def _shares(pixels: Sequence[int]) -> list[float]:
    return [count / max(sum(pixels), 1) for count in pixels]


def _palette(manifest: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    from swath.core.palette import default_palette

    colours = manifest["palette"] or default_palette(manifest["classes"])
    return [(int(r), int(g), int(b)) for r, g, b in colours]


def _shortened(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"...{name[-most:]}"
