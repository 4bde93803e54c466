import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.errors import DataError
from swath.core.geo.raster import RasterInfo
from swath.core.inference.objects import DetectionResult
from swath.core.sample import Sample
from swath.refseg.predictor import RemoteSAMPredictor
from swath.refseg.protocols import (
    JUDGES,
    Evaluation,
    judge_captions,
    judge_segmentation,
    write_dota,
)

CLASSES = ("ship", "vehicle")
SIDE = 40


class Samples(list[Sample]):
    """Two images with every kind of target that the evaluations ask for."""

    def __init__(self) -> None:
        super().__init__(self.sample(i) for i in range(2))

    def sample(self, number: int) -> Sample:
        generator = torch.Generator().manual_seed(number)
        image = torch.randint(0, 255, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        mask = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
        mask[:20, :20] = 1
        targets: dict[str, Any] = {
            "sentence": "the ship",
            "mask": tv_tensors.Mask(mask),
            "box": [0, 0, 20, 20],
            "boxes": torch.tensor([[0.0, 0, 20, 20]]),
            "labels": torch.tensor([0]),
            "label": 0,
            "captions": ["a ship at the top", "one ship"],
            "name": "ship",
            "count": 1,
        }
        return Sample(image, targets, meta={"path": f"{number}.png"})


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("name", JUDGES)
def test_every_evaluation_gives_figures(
    predictor: RemoteSAMPredictor, name: str, official: bool
) -> None:
    how = Evaluation(CLASSES, official=official, priors={"ship": 4})
    figures = JUDGES[name](predictor, Samples(), how)
    numbers = [v for v in figures.values() if isinstance(v, int | float)]
    assert numbers
    json.dumps(figures)
    counted = [figures[k] for k in ("sentences", "images", "questions") if k in figures]
    assert counted in ([], [2])


def test_officially_the_last_class_has_a_pixel_and_the_prompt_a_full_stop(
    predictor: RemoteSAMPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = []

    def masks(image: Any, classes: Any, prompt: str) -> Any:
        """Both classes everywhere, the first more surely."""
        prompts.append(prompt)
        size = image.shape[:2]
        found = {"ship": 0.9, "vehicle": 0.6}
        return {k: (np.ones(size, np.uint8), np.full(size, v)) for k, v in found.items()}

    monkeypatch.setattr(predictor, "masks", masks)
    figures = judge_segmentation(predictor, Samples(), Evaluation(CLASSES))
    assert figures["per_class"]["ship"]["recall"] == 1
    figures = judge_segmentation(predictor, Samples(), Evaluation(CLASSES, official=True))
    assert figures["per_class"]["ship"]["recall"] == 0
    assert prompts == ["{} in the image"] * 2 + ["{} in the image."] * 2


def test_nothing_found_is_captioned_as_officially_only_on_demand(
    predictor: RemoteSAMPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    asked = predictor.captioning
    monkeypatch.setattr(
        predictor,
        "captioning",
        lambda *a, **k: seen.append(k["official_when_empty"]) or asked(*a, **k),
    )
    for official in (False, True):
        judge_captions(predictor, Samples()[:1], Evaluation(CLASSES, official=official))
    assert seen == [False, True]


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("oriented", [False, True])
def test_submissions_of_dota(
    predictor: RemoteSAMPredictor, tmp_path: Path, oriented: bool, official: bool
) -> None:
    how = Evaluation(CLASSES, official, names=("ship", "small-vehicle"))
    paths = write_dota(predictor, Samples(), how, tmp_path, oriented)
    task, second = 1 if oriented else 2, "vehicle" if official else "small-vehicle"
    assert [p.name for p in paths] == [f"Task{task}_ship.txt", f"Task{task}_{second}.txt"]
    lines = "".join(p.read_text() for p in paths).splitlines()
    assert lines
    for line in lines:
        name, score, *corners = line.split()
        assert name in (("0.png", "1.png") if official else ("0", "1"))
        assert 0 <= float(score) <= 1
        assert len(corners) == (8 if oriented or official else 4)


def test_objects_of_patches_are_put_together(
    predictor: RemoteSAMPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two patches, the second 30 px to the right, see the same ship; another scene has its own."""
    found = iter([([32.0, 2, 40, 8], 0.6), ([2.0, 2, 10, 8], 0.9), ([0.0, 0, 5, 5], 0.5)])

    def detection(image: Any, classes: Any, oriented: bool) -> DetectionResult:
        box, score = next(found)
        info = RasterInfo(None, SIDE, SIDE, 3, "uint8")
        return DetectionResult(
            info, CLASSES, np.array([box]), np.zeros(1, np.int64), np.array([score])
        )

    monkeypatch.setattr(predictor, "detection", detection)
    samples = [
        Sample(Samples()[0].image, meta={"path": f"images/{name}.png"})
        for name in ("P1__1024__0___0", "P1__1024__30___0", "P2")
    ]
    ships, _ = write_dota(predictor, samples, Evaluation(CLASSES), tmp_path)
    assert ships.read_text() == "P1 0.9000 32.0 2.0 40.0 8.0\nP2 0.5000 0.0 0.0 5.0 5.0\n"


def test_grey_images_are_judged_and_others_named(predictor: RemoteSAMPredictor) -> None:
    grey = [replace(sample, image=sample.image[:1]) for sample in Samples()]
    for name, judge in JUDGES.items():
        repeated = [replace(s, image=s.image.expand(3, -1, -1)) for s in grey]
        how = Evaluation(CLASSES)
        assert str(judge(predictor, grey, how)) == str(judge(predictor, repeated, how)), name
    deep = [replace(sample, image=sample.image.to(torch.uint16)) for sample in Samples()]
    with pytest.raises(DataError, match=r"0\.png: uint16 with 3 bands; 8-bit RGB or grey"):
        JUDGES["detection"](predictor, deep, Evaluation(CLASSES))
