"""Train the small model that comes with Swath, judge it, and write it into core's assets.

    python benchmarks/swath_small.py --samples ../shared/samples

Judged on what the config holds out: a place of Kampala, a tile of Dubai, and scenes of another seed
and of a domain it hasn't seen. Writes
``assets/swath_small.safetensors`` (half precision, figures in its card), the figures in
``assets/MODEL_CARD.md`` and ``results/swath_small.json``.
"""

import argparse
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import record

from swath.core.checkpoint.store import load_pair, save_model
from swath.core.config import load_config
from swath.core.configs import swath_small as recipe
from swath.core.engine import evaluate, train
from swath.core.metrics.segmentation import SegmentationMetrics
from swath.core.spec import Spec

ASSETS = Path(__file__).parents[1] / "packages/core/src/swath/core/assets"
CHECKPOINT = "swath_small.safetensors"
LIMIT_BYTES = 4_000_000


def main() -> None:
    """Train, judge, store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=Path, required=True, help="folder of the sample data")
    parser.add_argument("--run", type=Path, default=Path("runs/swath_small"), help="run folder")
    parser.add_argument("--set", action="append", default=[], help="override of the config")
    parser.add_argument("--smoke", action="store_true", help="a few steps, nothing recorded")
    arguments = parser.parse_args()
    os.environ["SWATH_DATA"] = str(arguments.samples.resolve())
    overrides = [*arguments.set, *(["iterations=4", "batch_size=2"] if arguments.smoke else [])]

    config = load_config("swath_small", overrides)
    started = time.monotonic()
    summary = train(config, arguments.run, resume=arguments.run.exists())
    minutes = (time.monotonic() - started) / 60
    folder = arguments.run if arguments.smoke else ASSETS

    # judged as stored: in half precision
    model, _, _ = load_pair(summary.last_checkpoint)
    training = {"config": config.hash, "iterations": summary.step, "minutes": round(minutes, 1)}
    stored = folder / CHECKPOINT
    save_model(stored, model, config.model, config.task, config.card, training, torch.float16)
    rows = judge(stored, 2 if arguments.smoke else 48)
    card = {**config.card, "held_out": recipe.HELD_OUT, "figures": rows}
    save_model(stored, model, config.model, config.task, card, training, torch.float16)
    if stored.stat().st_size > LIMIT_BYTES:
        raise SystemExit(f"{stored}: {stored.stat().st_size} bytes, more than {LIMIT_BYTES}")
    if not arguments.smoke:
        write_figures(ASSETS / "MODEL_CARD.md", rows)
        record("swath_small", rows, training=training, bytes=stored.stat().st_size)


def judge(checkpoint: Path, scenes: int) -> list[dict[str, Any]]:
    """Figures on each held-out source, in percent; a class that a source lacks has None."""
    model, task, _ = load_pair(checkpoint)
    held_out: dict[str, Spec] = {
        "Kampala, drone, an unseen place": recipe.kampala("test"),
        "Dubai, satellite, an unseen tile": recipe.dubai(recipe.HELD_OUT["dubai"]),
        **{
            f"scenes-v1, {domain}": recipe.scenes(domain, recipe.HELD_OUT["scenes_seed"], scenes)
            for domain in ("temperate", "winter")
        },
    }
    rows = []
    for name, spec in held_out.items():
        sources = spec.build()
        figures = evaluate(model, task, sources, batch_size=1)
        if "Kampala" in name:  # its background isn't one class, so building is judged against it
            figures = against_the_rest(model, task, sources)
        per_class = figures["per_class"]
        rows.append(
            {"source": name, "images": len(sources)}
            | {f"{c} IoU %": percent(per_class.get(c)) for c in recipe.CLASSES}
        )
    return rows


def against_the_rest(model: torch.nn.Module, task: Any, dataset: Any) -> Mapping[str, Any]:
    """IoU of building where only "building" and "not building" are labelled."""
    building = recipe.CLASSES.index("building")
    metrics = SegmentationMetrics(("rest", "building"))
    with torch.inference_mode():
        for sample in dataset:
            batch = task.collate([sample])
            found = task.predict(model, batch)[0].argmax(0) == building
            truth = batch["partial"].clone()
            known = truth != task.ignore_index
            truth[known] = (truth[known] == building).long()
            metrics.update([found.long()], {"mask": truth})
    return metrics.compute()


def percent(figures: Mapping[str, Any] | None) -> float | None:
    """IoU in percent with one decimal, or None where the class doesn't occur in the truth."""
    if not figures or not figures["pixels"] or figures["IoU"] is None:
        return None
    return round(100 * figures["IoU"], 1)


def write_figures(card: Path, rows: list[dict[str, Any]]) -> None:
    """Put the table between the markers of the model card."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    cells = [["-" if value is None else str(value) for value in row.values()] for row in rows]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    text = card.read_text(encoding="utf-8")
    block = "<!-- figures -->\n" + "\n".join(lines) + "\n<!-- end of figures -->"
    text = re.sub(r"<!-- figures -->.*<!-- end of figures -->", block, text, flags=re.DOTALL)
    card.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
