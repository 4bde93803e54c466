from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swath.core.errors import ConfigError
from swath.core.task import pick_device, predict_command, to_device


def test_an_absent_device_is_refused_in_one_line() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="device 'gpu' can't be used here"):
        pick_device("gpu")


def test_tensors_move_wherever_they_are_and_all_else_stays() -> None:
    batch = {
        "image": torch.zeros(2),
        "parts": {"det": {"boxes": [torch.zeros(3, 4), torch.zeros(0, 4)], "sizes": [(1, 2)]}},
        "meta": [{"id": "a"}],
        "progress": 0.5,
    }
    moved = to_device(batch, "meta")
    assert moved["image"].is_meta
    assert all(boxes.is_meta for boxes in moved["parts"]["det"]["boxes"])
    assert moved["parts"]["det"]["sizes"] == [(1, 2)]
    assert moved["meta"] == [{"id": "a"}]
    assert moved["progress"] == 0.5
    assert not batch["image"].is_meta


def test_the_command_that_asks_a_model_can_be_typed() -> None:
    task: Any = SimpleNamespace(asked_with=("--task", "grounding", "--text", "the red ship"))
    typed = predict_command(task, "my runs/best.safetensors", "IMAGE", "-o", "a.tif")
    assert typed == (
        "swath predict 'my runs/best.safetensors' IMAGE -o a.tif "
        "--task grounding --text 'the red ship'"
    )
    plain: Any = SimpleNamespace()
    assert predict_command(plain, "m.safetensors", "IMAGE") == "swath predict m.safetensors IMAGE"
