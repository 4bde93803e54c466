import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import tv_tensors

from swath.core.detection.task import DetectionTask
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.core.task import Task
from swath.core.viz import report
from swath.core.viz.page import Section
from swath.core.viz.report import headline, metrics_sections, read_log, training_report


class Scenes:
    """Bright water on dark land; in the last image the labels are swapped."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        mask = torch.zeros(16, 16, dtype=torch.int64)
        mask[:, : 4 + index] = 1
        image = (200 * mask).to(torch.uint8).expand(3, 16, 16)
        truth = 1 - mask if index == 4 else mask
        return Sample(image, {"mask": tv_tensors.Mask(truth)}, meta={"id": f"scene-{index}"})


class Threshold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = self.gain * image.mean(1, keepdim=True)
        return torch.cat([-score, score], 1)


TASK = SegmentationTask(["land", "water"])


def evaluated() -> dict[str, object]:
    metrics = TASK.metrics()
    for i in range(5):
        batch = TASK.collate([Scenes()[i]])
        metrics.update(TASK.predict(Threshold(), batch), batch)
    return metrics.compute()


def test_the_report_has_every_part(tmp_path: Path) -> None:
    lines = [{"step": s, "loss": 1 / s, "time_s": 0.1} for s in range(1, 9)]
    log = [*lines, {"step": 8, "val": {"mIoU": 0.5}}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    path = training_report(tmp_path, evaluated(), Threshold(), TASK, Scenes())
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    for part in ("The run", "Training", "Classes", "Confusions", "Best examples", "Next"):
        assert f"<h2>{part}</h2>" in text
    assert path.stat().st_size < 5_000_000


def test_the_next_commands_fit_the_run_and_the_task(tmp_path: Path) -> None:
    assert "last.safetensors scene.tif --out mask.tif" in next_of(tmp_path, TASK)
    (tmp_path / "best.safetensors").touch()
    assert "best.safetensors scene.tif --out mask.tif" in next_of(tmp_path, TASK)
    assert "mask" not in next_of(tmp_path, DetectionTask(["ship"]))


def next_of(folder: Path, task: Task) -> str:
    """The last part of a report."""
    path = training_report(folder, {task.score: 0.5}, Threshold(), task, [])
    return path.read_text(encoding="utf-8").rpartition("<h2>Next</h2>")[2]


def test_the_worst_example_is_the_one_that_is_wrong(tmp_path: Path) -> None:
    text = training_report(tmp_path, evaluated(), Threshold(), TASK, Scenes()).read_text("utf-8")
    worst = text[text.index("Worst examples") :]
    best = text[text.index("Best examples") : text.index("Worst examples")]
    assert "scene-4" in worst
    assert "scene-4" not in best
    assert "mIoU 0.000" in worst


def test_no_more_examples_are_judged_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_JUDGED_AT_MOST", 3)
    text = training_report(tmp_path, evaluated(), Threshold(), TASK, Scenes()).read_text("utf-8")
    assert "one in 2 of which was judged" in text  # three of five, not all


def test_a_folder_without_a_log_gives_a_report_all_the_same(tmp_path: Path) -> None:
    text = training_report(tmp_path, evaluated(), Threshold(), TASK, Scenes()).read_text("utf-8")
    assert "<h2>Training</h2>" not in text


def test_the_report_does_not_leave_the_model_in_another_mode(tmp_path: Path) -> None:
    model = Threshold().train()
    training_report(tmp_path, evaluated(), model, TASK, Scenes())
    assert model.training


def test_a_task_adds_cards_of_its_own(tmp_path: Path) -> None:
    class Telling(SegmentationTask):
        def report(self, model: nn.Module, metrics: object, dataset: object) -> list[Section]:
            return [Section("Only here", f"<p>{len(dataset)} scenes</p>")]  # type: ignore[arg-type]

    task = Telling(["land", "water"])
    text = training_report(tmp_path, evaluated(), Threshold(), task, Scenes()).read_text("utf-8")
    assert text.index("<h2>Confusions</h2>") < text.index("<h2>Only here</h2>\n<p>5 scenes</p>")


def test_detectors_are_confused_with_nothing_too() -> None:
    task = DetectionTask(["ship", "car"])
    (card,) = metrics_sections({"confusion": [[3, 0, 1], [0, 2, 0], [1, 0, 0]]}, task)
    assert card.title == "Confusions"
    assert card.body.count("nothing") >= 2  # a row and a column


def test_the_score_comes_first() -> None:
    figures = headline({"OA": 0.9, "mIoU": 0.5, "per_class": {}}, "mIoU")
    assert list(figures.items()) == [("mIoU", "0.500"), ("OA", "0.900")]


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []
