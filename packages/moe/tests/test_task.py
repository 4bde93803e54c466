import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from swath.core import load_model
from swath.core.config import TrainConfig
from swath.core.engine import evaluate, train
from swath.core.errors import ConfigError, DataError
from swath.core.inference.protocols import EvaluationMode
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.core.task import predict_command
from swath.moe.models.mdf import MDFSegmenter
from swath.moe.task import MultiDatasetSegmentationTask


def batch_of(config: TrainConfig, indices: list[int]) -> dict[str, Any]:
    dataset, task = config.train.build(), config.task.build()
    return dict(task.collate([dataset[i] for i in indices]))


def test_the_losses_of_a_mixed_batch_are_those_of_each_data_set(tiny: TrainConfig) -> None:
    torch.manual_seed(0)
    model: MDFSegmenter = tiny.model.build().eval()
    task = tiny.task.build()
    batch = batch_of(tiny, [0, 7, 1, 8, 2])
    assert batch["tasks"] == ["fields", "roofs", "fields", "roofs", "fields"]
    losses = task.losses(model, batch)
    assert list(losses) == ["fields_ce", "roofs_ce"]
    for number, name in enumerate(("fields", "roofs")):
        rows = [i for i, other in enumerate(batch["tasks"]) if other == name]
        logits = model(batch["image"][rows], number).by_task[name]
        expected = F.cross_entropy(logits, batch["mask"][rows], ignore_index=255)
        torch.testing.assert_close(losses[f"{name}_ce"], expected)


def test_weights_and_the_share_of_the_run_from_which_a_task_counts(tiny: TrainConfig) -> None:
    torch.manual_seed(0)
    model: MDFSegmenter = tiny.model.build().eval()
    plain = tiny.task.build()
    task = MultiDatasetSegmentationTask(plain.tasks, {"fields": 0.5}, {"roofs": 0.7})
    batch = batch_of(tiny, [0, 7])
    whole = plain.losses(model, batch)
    for progress, share in ((0.0, 0.0), (37029 / 52900, 0.0), (37030 / 52900, 1.0), (0.9, 1.0)):
        losses = task.losses(model, batch | {"progress": progress})
        assert torch.equal(losses["fields_ce"], 0.5 * whole["fields_ce"])
        assert torch.equal(losses["roofs_ce"], share * whole["roofs_ce"])
    model.train()
    sum(task.losses(model, batch | {"progress": 0.5}).values()).backward()
    for name, parameter in model.named_parameters():
        if ".roofs." in name or ".experts.1." in name:
            assert not parameter.requires_grad or bool((parameter.grad == 0).all()), name


def test_a_task_without_samples_in_the_batch_has_loss_zero(tiny: TrainConfig) -> None:
    model = tiny.model.build().train()
    losses = tiny.task.build().losses(model, batch_of(tiny, [0, 1, 2]))
    assert losses["roofs_ce"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_experts_for_tokens_add_their_balance_to_the_losses_and_learn(
    routed: TrainConfig, tmp_path: Path
) -> None:
    model, task = routed.model.build().train(), routed.task.build()
    losses = task.losses(model, batch_of(routed, [0, 7]))
    assert list(losses) == ["load_balance", "fields_ce", "roofs_ce"]
    assert 0.1 <= losses["load_balance"] <= 0.1 * 3
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    summary = train(routed, tmp_path, progress=False)
    lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert all(line["load_balance"] >= 0.1 for line in lines if "loss" in line)
    assert load_model(summary.best_checkpoint, device="cpu", task="roofs").classes[1] == "roof"


def test_each_image_is_predicted_at_its_size_by_its_data_sets_protocol(tiny: TrainConfig) -> None:
    torch.manual_seed(0)
    model: MDFSegmenter = tiny.model.build().eval()
    modes = {"fields": None, "roofs": EvaluationMode("slide", size=32, step=16)}
    classes = {name: task.classes for name, task in tiny.task.build().tasks.items()}
    task = MultiDatasetSegmentationTask(
        {n: SegmentationTask(classes[n], evaluation=mode) for n, mode in modes.items()}
    )
    sizes = {"fields": (32, 32), "roofs": (48, 64)}
    samples = [
        Sample(torch.randint(0, 255, (3, *sizes[n]), dtype=torch.uint8), meta={"task": n})
        for n in ("roofs", "fields", "roofs")
    ]
    predictions = task.predict(model, task.collate(samples))
    for sample, prediction in zip(samples, predictions, strict=True):
        name = sample.meta["task"]
        assert prediction.shape == (len(classes[name]), *sizes[name])
        view, own = task.select(model, name)
        alone = own.predict(view, own.collate([sample]))[0]
        torch.testing.assert_close(prediction, alone, rtol=1e-5, atol=1e-5)


def test_figures_are_each_data_sets_own_and_their_mean(tiny: TrainConfig) -> None:
    model, task = tiny.model.build(), tiny.task.build()
    dataset = tiny.val.build()
    figures = evaluate(model, task, dataset, batch_size=3, progress=False)
    again = evaluate(model, task, dataset, batch_size=5, progress=False)
    assert figures == again
    for name, part in dataset.parts.items():
        view, own = task.select(model, name)
        alone = evaluate(view, own, part, progress=False)
        assert figures[f"{name}_mIoU"] == alone["mIoU"]
        assert figures["per_task"][name]["OA"] == alone["OA"]
        for label in own.classes:
            assert figures["per_class"][f"{name}/{label}"] == alone["per_class"][label]
    assert figures["mIoU"] == (figures["fields_mIoU"] + figures["roofs_mIoU"]) / 2


def test_a_data_set_that_was_not_judged_is_no_part_of_the_mean(tiny: TrainConfig) -> None:
    model, task, parts = tiny.model.build(), tiny.task.build(), tiny.val.build().parts
    only = type(tiny.val.build())({"fields": parts["fields"]}, repeat=False)
    figures = evaluate(model, task, only, progress=False)
    assert figures["mIoU"] == figures["fields_mIoU"]
    assert "roofs_mIoU" not in figures


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    tiny: TrainConfig, tmp_path: Path
) -> None:
    config = replace(
        tiny, task=Spec(tiny.task.target, **tiny.task.kwargs, loss_from={"roofs": 0.5})
    )
    train(config, tmp_path / "whole", progress=False)
    train(config, tmp_path / "parts", until=3, progress=False)
    train(config, tmp_path / "parts", resume=True, progress=False)
    whole = load_file(tmp_path / "whole" / "last.safetensors")
    parts = load_file(tmp_path / "parts" / "last.safetensors")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "loss" in line]
    assert [line["roofs_ce"] == 0 for line in steps] == [True] * 3 + [False] * 3


def test_a_trained_checkpoint_predicts_for_the_task_that_was_chosen(
    tiny: TrainConfig, tmp_path: Path
) -> None:
    summary = train(replace(tiny, iterations=2), tmp_path / "run", progress=False)
    scene = torch.randint(0, 255, (70, 90, 3), dtype=torch.uint8).numpy()
    for name, classes in (("fields", 3), ("roofs", 2)):
        predictor = load_model(summary.last_checkpoint, device="cpu", task=name)
        assert len(predictor.classes) == classes
        result = predictor.predict(scene, tile=None)
        assert result.info.width == 90
    with pytest.raises(ConfigError, match=r"unknown task 'roof'.*did you mean 'roofs'.*fields"):
        load_model(summary.last_checkpoint, device="cpu", task="roof")
    with pytest.raises(ConfigError, match=r"choose by which to go, one of fields, roofs"):
        load_model(summary.last_checkpoint, device="cpu").predict(scene)


def test_mistakes_are_named(tiny: TrainConfig) -> None:
    task = tiny.task.build()
    sample = tiny.train.build()[0]
    with pytest.raises(DataError, match=r"is from 'rofs'.*'roofs'.*known data sets"):
        task.collate([replace(sample, meta={"task": "rofs"})])
    with pytest.raises(ConfigError, match="not a Conv2d"):
        task.losses(nn.Conv2d(3, 2, 1), task.collate([sample]))
    with pytest.raises(ConfigError, match="unknown task 'x'"):
        MultiDatasetSegmentationTask(task.tasks, {"x": 1})
    with pytest.raises(ConfigError, match=r"loss_from\.roofs=2"):
        MultiDatasetSegmentationTask(task.tasks, loss_from={"roofs": 2})
    other = MultiDatasetSegmentationTask({**task.tasks, "lakes": task.tasks["roofs"]})
    lake = other.collate([replace(sample, meta={"task": "lakes"}, targets={})])
    with pytest.raises(ConfigError, match="this model knows fields, roofs"):
        other.predict(tiny.model.build(), lake)
    roof = tiny.train.build()[7].targets
    wrong = MultiDatasetSegmentationTask({**task.tasks, "fields": task.tasks["roofs"]})
    with pytest.raises(ConfigError, match="scores 3 classes, the task has 2"):
        wrong.losses(tiny.model.build(), wrong.collate([replace(sample, targets=roof)]))


def test_the_command_that_is_suggested_names_a_task(tiny: TrainConfig) -> None:
    command = predict_command(tiny.task.build(), "best.safetensors", "IMAGE")
    assert command == "swath predict best.safetensors IMAGE --task fields"
