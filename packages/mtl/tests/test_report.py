from typing import Any

import pytest
import torch

from swath.core.config import TrainConfig
from swath.core.engine import evaluate
from swath.core.viz.report import training_report
from swath.mtl.pictures import attention_points
from swath.mtl.report import _place


@pytest.fixture
def judged(tiny: TrainConfig) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    assert tiny.val is not None
    return tiny.model.build().eval(), tiny.task.build(), tiny.val.build()


def test_the_report_shows_every_data_set_and_the_inside_of_every_head(
    judged: tuple[Any, Any, Any], tmp_path: Any
) -> None:
    model, task, data = judged
    metrics = evaluate(model, task, data, batch_size=4, device="cpu", progress=False)
    text = training_report(tmp_path, metrics, model, task, data).read_text("utf-8")
    for name in ("cls/kinds", "det/things", "seg/cover"):
        assert f"<h2>{name}: classes</h2>" in text
        assert f"<h2>{name}: confusions</h2>" in text
    for head in ("cls", "det", "seg"):
        assert f"<h2>Inside the model, for {head}</h2>" in text
        # the classifier of one level makes no use of the encoder
        assert (f"looks from the cross, for {head}" in text) == (head != "cls")
    print(f"{len(text) / 1e6:.2f} MB")
    assert len(text) < 5_000_000


def test_a_specialist_shows_its_inside_too(judged: tuple[Any, Any, Any]) -> None:
    model, task, data = judged
    (card,) = task.parts["seg/cover"].report(model, {}, data.parts["seg/cover"].dataset)
    assert "looks from the cross, for seg" in card.body


def test_heads_without_the_encoder_have_no_points(judged: tuple[Any, Any, Any]) -> None:
    assert attention_points(judged[0], torch.randn(3, 64, 64), (0.5, 0.5), "cls") is None


def test_the_encoder_is_asked_at_the_largest_object() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 10, 60, 30], [50, 50, 60, 60]])
    image = torch.zeros(1, 3, 80, 100)
    assert _place({"image": image, "boxes": [boxes]}) == pytest.approx((0.4, 0.25))
    assert _place({"image": image, "boxes": [boxes[:0]]}) == (0.5, 0.5)
    assert _place({"image": image}) == (0.5, 0.5)
