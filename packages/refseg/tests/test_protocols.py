import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

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


@pytest.mark.parametrize(("oriented", "number"), [(False, 2), (True, 1)])
def test_submissions_of_dota(
    predictor: RemoteSAMPredictor, tmp_path: Path, oriented: bool, number: int
) -> None:
    paths = write_dota(predictor, Samples(), Evaluation(CLASSES), tmp_path, oriented)
    assert [p.name for p in paths] == [f"Task{number}_{name}.txt" for name in CLASSES]
    for line in "".join(p.read_text() for p in paths).splitlines():
        name, score, *corners = line.split()
        assert name in ("0.png", "1.png")
        assert 0 <= float(score) <= 1
        assert len(corners) == 8
