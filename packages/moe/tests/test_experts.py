from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from swath.core.checkpoint.store import load_pair, save_model
from swath.core.config import TrainConfig
from swath.core.data.radiometry import Radiometry
from swath.core.engine import train
from swath.core.errors import CheckpointError, ConfigError
from swath.core.inference.protocols import EvaluationMode
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.moe.cli import app
from swath.moe.data import MultiDataset
from swath.moe.experts import add_expert
from swath.moe.models.mdf import MDFSegmenter
from swath.moe.models.vit_moe import ViTMoE
from swath.moe.task import MultiDatasetSegmentationTask

ROADS = Spec(SegmentationTask, classes=["ground", "road", "path"])


@pytest.fixture
def trained(tiny: TrainConfig, tmp_path: Path) -> Path:
    return train(replace(tiny, iterations=3), tmp_path / "run", progress=False).last_checkpoint


def outputs(path: Path, number: int) -> list[Tensor]:
    """Logits of a checkpoint for one task: alone, and in a batch with others."""
    model, _, _ = load_pair(path)
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        alone = model(batch, number).per_sample()
        mixed = model(batch, torch.tensor([0, 1, 1, 0]))
    return [*alone, *mixed.by_task.values()]


def backbone(tiny: TrainConfig, experts: int) -> Spec:
    before: Spec = tiny.model["backbone"]
    return Spec(ViTMoE, **{**before.kwargs, "num_experts": experts})


def test_a_new_expert_leaves_the_other_tasks_as_they_are_also_when_it_is_trained(
    trained: Path, tiny: TrainConfig, tmp_path: Path
) -> None:
    grown = tmp_path / "grown.safetensors"
    add_expert(trained, "roads", ROADS["classes"], grown, like="roofs")
    model, task, _ = load_pair(grown)
    assert model.tasks == {"fields": 3, "roofs": 2, "roads": 3}
    assert task.tasks["roads"].classes == tuple(ROADS["classes"])
    for layer in model.backbone.layers:
        assert torch.equal(layer.ffn.experts[2].weight, layer.ffn.experts[1].weight)
    for name, value in model.decoders["roads"].state_dict().items():
        assert torch.equal(value, model.decoders["roofs"].state_dict()[name])

    config = replace(
        tiny,
        model=Spec(
            MDFSegmenter,
            backbone=backbone(tiny, 3),
            tasks=model.tasks,
            width=16,
            trained=["roads"],
        ),
        task=Spec(MultiDatasetSegmentationTask, tasks={**tiny.task["tasks"], "roads": ROADS}),
        train=Spec(MultiDataset, parts={"roads": tiny.train["parts"]["fields"]}),
        val=None,
        init_from=str(grown),
        iterations=3,
    )
    retrained = train(config, tmp_path / "roads", progress=False).last_checkpoint
    for number in (0, 1):
        before = outputs(trained, number)
        for after in (outputs(grown, number), outputs(retrained, number)):
            assert all(map(torch.equal, before, after))
    assert not any(map(torch.equal, outputs(grown, 2)[:4], outputs(retrained, 2)[:4]))


def test_the_command_writes_beside_the_checkpoint_and_says_what_next(trained: Path) -> None:
    arguments = ["add-expert", str(trained), "roads", "--classes", "ground, road"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    target = trained.with_name("last_roads.safetensors")
    assert "trained=['roads']" in done.output
    assert load_pair(target)[0].tasks["roads"] == 2
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ConfigError)
    assert "say --overwrite" in str(again.exception)
    arguments[2:] = ["paths", "--classes", "ground,,road"]  # road would be class 1
    gap = CliRunner().invoke(app, arguments)
    assert isinstance(gap.exception, ConfigError)
    assert "a name is missing" in str(gap.exception)


def test_mistakes_are_named(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for name, classes, like, message in (
        ("roofs", ["a"], None, "has a task 'roofs' already"),
        ("roads", [], None, "at least one class"),
        ("roads", ["a", "b", "a"], None, "class 'a' of 'roads' is named twice"),
        ("roads", ["a"], "rofs", "did you mean 'roofs'"),
        ("Roads!", ["a"], None, "can't name a task"),
    ):
        with pytest.raises(ConfigError, match=message):
            add_expert(trained, name, classes, out, like)
    plain = tmp_path / "unet.safetensors"
    spec = Spec(UNet, in_channels=3, num_classes=2, width=4, depth=1)
    save_model(plain, spec.build(), spec, Spec(SegmentationTask, classes=["a", "b"]))
    with pytest.raises(CheckpointError, match="holds a UNet for segmentation"):
        add_expert(plain, "roads", ["a"], out)
    assert not out.exists()


def test_a_detector_gains_a_task_too(detection: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, grown = tmp_path / "detector.safetensors", tmp_path / "grown.safetensors"
    save_model(path, detection.model.build(), detection.model, detection.task)
    add_expert(path, "tanks", ["tank", "silo"], grown, like="planes")
    model, task, _ = load_pair(grown)
    before, _, _ = load_pair(path)
    assert model.tasks == {"ships": 2, "planes": 1, "tanks": 2}
    assert task.tasks["tanks"].classes == ("tank", "silo")
    image = torch.randn(2, 3, 64, 64)
    for number in range(2):
        with torch.no_grad():
            got, want = (m.eval()(image, number, [(64, 64)] * 2) for m in (model, before))
        for ours, theirs in zip(got, want, strict=True):
            assert torch.equal(ours.boxes, theirs.boxes)
            assert torch.equal(ours.scores, theirs.scores)
    new, old = model.heads["tanks"].state_dict(), model.heads["planes"].state_dict()
    assert [k for k in new if new[k].shape != old[k].shape or not torch.equal(new[k], old[k])] == [
        "roi_head.fc_cls.weight",
        "roi_head.fc_cls.bias",
    ]


def test_a_new_task_reads_images_as_the_one_that_it_begins_from(
    tiny: TrainConfig, tmp_path: Path
) -> None:
    bands = ["blue", "green", "red", "nir"]
    fields = Spec(
        SegmentationTask,
        classes=["ground", "crop", "fallow"],
        radiometry=Spec(
            Radiometry, bands=bands, dtype="uint16", scale=1e-4, mean=[0.1] * 4, std=[0.05] * 4
        ),
        ignore_index=250,
        palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]],
        class_weights=[1.0, 2.0, 3.0],
        mean_without=["fallow"],
        dice_weight=0.5,
        gsd_m=10.0,
        evaluation=Spec(EvaluationMode, mode="slide", size=32, step=16),
    )
    task = Spec(MultiDatasetSegmentationTask, tasks={**tiny.task["tasks"], "fields": fields})
    path, grown = tmp_path / "bands.safetensors", tmp_path / "grown.safetensors"
    save_model(path, tiny.model.build(), tiny.model, task)
    add_expert(path, "roads", ROADS["classes"], grown, like="fields")
    _, made, _ = load_pair(grown)
    old, new = made.tasks["fields"], made.tasks["roads"]
    for attribute in ("radiometry", "ignore_index", "dice_weight", "gsd_m", "evaluation"):
        assert getattr(new, attribute) == getattr(old, attribute), attribute
    assert (list(new.radiometry.bands), new.radiometry.dtype) == (bands, "uint16")
    assert new.class_weights is None
    assert len(set(new.palette)) == len(new.classes) == 3
    assert new.palette != old.palette
    new.metrics()  # knows no class 'fallow'


def test_a_model_with_experts_for_tokens_gains_a_decoder_and_a_head(
    routed: TrainConfig, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path, grown = tmp_path / "routed.safetensors", tmp_path / "grown.safetensors"
    save_model(path, routed.model.build(), routed.model, routed.task)
    add_expert(path, "roads", ROADS["classes"], grown)
    model, _, _ = load_pair(grown)
    assert model.tasks == {"fields": 3, "roofs": 2, "roads": 3}
    assert model.backbone.num_experts == 3
    for number in (0, 1):
        assert all(map(torch.equal, outputs(path, number), outputs(grown, number)))
