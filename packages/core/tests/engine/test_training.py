import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch._dynamo import lookup_backend
from torch.utils.data import IterableDataset

import swath.core
from swath.core.checkpoint.store import load_pair
from swath.core.config import TrainConfig
from swath.core.engine import smoke, train
from swath.core.engine.checkpointing import RunFolder
from swath.core.engine.pieces import muon_cosine, sgd_poly
from swath.core.engine.runner import ClippingOptimizer
from swath.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    SwathError,
    TrainingError,
)
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

Toy = Callable[..., TrainConfig]


class Smooth(nn.Module):
    """Without kinks and dropout, whose random numbers compiled code draws in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 2, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(image)
        return scores


def counting(graph: Any, inputs: Any) -> Any:
    """A compiler of torch's that remembers that it was asked."""
    counting.graphs = getattr(counting, "graphs", 0) + 1  # type: ignore[attr-defined]
    return lookup_backend("aot_eager")(graph, inputs)


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor a run has saved: weights, moments, averages, random states."""
    return {
        f"{file.relative_to(run)}/{name}": value
        for file in sorted(run.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time_s", "data_s")} for line in lines]


def assert_same_run(first: Path, second: Path) -> None:
    one, other = tensors(first), tensors(second)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert log(first) == log(second)


@pytest.mark.parametrize("kind", ["map-style", "stream"])
@pytest.mark.parametrize(
    ("workers", "stop_at", "channels_last"), [(0, 20, False), (2, 20, False), (0, 13, True)]
)
def test_twenty_and_twenty_steps_are_forty_bit_for_bit(
    toy: Toy,
    tmp_path: Path,
    workers: int,
    stop_at: int,
    channels_last: bool,
    kind: str,
    squares: Any,
    tape: Any,
) -> None:
    config = toy(
        train=Spec(squares if kind == "map-style" else tape),
        iterations=40,
        num_workers=workers,
        val_every=20,
        checkpoint_every=20,
        ema=0.9,
        clip_norm=1.0,
        channels_last=channels_last,
        log_every=1,
    )
    train(config, tmp_path / "whole", progress=False)
    half = train(config, tmp_path / "halves", until=stop_at, progress=False)
    assert half.interrupted
    train(config, tmp_path / "halves", resume=True, progress=False)
    for step in {stop_at} - {20, 40}:  # the stop saved one checkpoint more
        for file in (tmp_path / "halves" / "checkpoints").glob(f"step_{step:08d}*"):
            file.unlink()
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


def test_muon_goes_on_bit_for_bit(toy: Toy, tmp_path: Path) -> None:
    config = toy(optimizer=muon_cosine(lr=1e-3), iterations=8, checkpoint_every=4)
    train(config, tmp_path / "whole", progress=False)
    train(config, tmp_path / "halves", until=4, progress=False)
    train(config, tmp_path / "halves", resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    toy: Toy, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(toy(seed=seed), tmp_path / name, progress=False)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert log(tmp_path / "a") != log(tmp_path / "c")


@pytest.mark.parametrize("kind", ["map-style", "stream"])
def test_a_resumed_run_reads_no_consumed_sample_again(
    toy: Toy, tmp_path: Path, kind: str, squares: Any, tape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = []
    build = Spec.build
    monkeypatch.setattr(
        Spec,
        "build",
        lambda self, **k: sets.append(build(self, **k)) or sets[-1],
    )
    spec = Spec(squares if kind == "map-style" else tape)
    config = toy(train=spec, val=None, iterations=30, augment=None)
    train(config, tmp_path, until=24, progress=False)
    train(config, tmp_path, resume=True, progress=False)
    first, second = [getattr(s, "squares", s) for s in sets if isinstance(s, squares | tape)]
    assert len(first.read) == 24 * 4
    assert len(second.read) == 6 * 4
    assert sorted(second.read) == sorted([*range(12)] * 2)  # whole epochs: 24 is two more


def test_ctrl_c_saves_after_the_step_and_the_run_goes_on_from_there(
    toy: Toy, tmp_path: Path, squares: Any
) -> None:
    whole = toy(val=None)
    train(whole, tmp_path / "whole", progress=False)
    config = toy(val=None, train=Spec(squares, interrupt_after=18))
    stopped = train(config, tmp_path / "run", progress=False)
    assert (stopped.step, stopped.interrupted) == (5, True)
    assert stopped.last_checkpoint.exists()
    # the second part counts its own reads, and would be interrupted at its 18th again
    stopped = train(config, tmp_path / "run", resume=True, progress=False)
    finished = train(config, tmp_path / "run", resume=True, progress=False)
    assert (finished.step, finished.interrupted) == (12, False)
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_folder_holds_what_is_documented_and_nothing_else(toy: Toy, tmp_path: Path) -> None:
    config = toy(keep_last=1)
    summary = train(config, tmp_path / "run", progress=False)
    names = sorted(str(f.relative_to(tmp_path / "run")) for f in (tmp_path / "run").rglob("*.*"))
    assert names == [
        ".lock",
        "best.safetensors",
        "checkpoints/step_00000012.safetensors",
        "checkpoints/step_00000012.trainer.safetensors",
        "config.json",
        "last.safetensors",
        "log.jsonl",
        "validation.json",
    ]
    model, task, description = load_pair(summary.best_checkpoint)
    assert task.classes == ("ground", "square")
    assert description["training"] == {
        "step": summary.best_step,
        "config": config.hash,
        "seed": 0,
        "score": summary.best,
    }
    assert not model.training


def test_the_log_has_every_figure(toy: Toy, tmp_path: Path) -> None:
    train(toy(), tmp_path, progress=False)
    lines = log(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "val" in line] == [5, 10, 12]
    assert all({"ce", "lr", "loss"} <= line.keys() for line in lines if "loss" in line)
    best = max(line["val"]["mIoU"] for line in lines if "val" in line)
    assert json.loads((tmp_path / "validation.json").read_text())["mIoU"] == pytest.approx(best)


class Counting(SegmentationTask):
    """Logs a figure with its losses."""

    def losses(self, model: torch.nn.Module, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return super().losses(model, batch) | {"pixels": torch.tensor(float(batch["mask"].numel()))}


def test_a_scalar_without_gradient_is_logged_and_not_minimised(toy: Toy, tmp_path: Path) -> None:
    plain = train(toy(), tmp_path / "plain", progress=False)
    task = Spec(Counting, classes=["ground", "square"])
    counting = train(toy(task=task), tmp_path / "counting", progress=False)
    weights = [load_file(run.last_checkpoint) for run in (plain, counting)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for one, other in zip(log(tmp_path / "plain"), log(tmp_path / "counting"), strict=True):
        assert other == one | ({"pixels": 4.0 * 16 * 16} if "loss" in one else {})


def test_validation_leaves_no_trace_in_what_is_learnt(toy: Toy, tmp_path: Path) -> None:
    train(toy(val_every=2), tmp_path / "judged", progress=False)
    train(toy(val=None), tmp_path / "alone", progress=False)
    one, other = (load_file(tmp_path / n / "last.safetensors") for n in ("judged", "alone"))
    assert [name for name in one if not one[name].equal(other[name])] == []


def test_accumulated_batches_are_one_large_batch(toy: Toy, tmp_path: Path, pixelwise: Any) -> None:
    small = {"model": Spec(pixelwise), "val": None, "augment": None}
    train(toy(batch_size=6, **small), tmp_path / "large", progress=False)
    train(toy(batch_size=2, accumulate=3, **small), tmp_path / "three", progress=False)
    one, other = (load_file(tmp_path / n / "last.safetensors") for n in ("large", "three"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"channels_last": True},
        {"optimizer": sgd_poly(lr=0.05)},
    ],
    ids=["bf16", "fp16", "channels_last", "sgd"],
)
def test_options_train_as_well(toy: Toy, tmp_path: Path, changes: Any) -> None:
    summary = train(toy(iterations=30, val_every=30, **changes), tmp_path, progress=False)
    losses = [line["loss"] for line in log(tmp_path) if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert summary.best is not None


def test_fp16_goes_on_with_the_gradient_scale_it_had(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def eager_scaler(device: str, enabled: bool) -> torch.amp.GradScaler:
        return scaler(device, enabled=enabled, init_scale=2.0**60, growth_interval=3)

    # overflows at first, then grows every third step
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", eager_scaler)
    config = toy(precision="fp16", iterations=60, checkpoint_every=60, val=None, log_every=1)
    train(config, tmp_path / "whole", progress=False)
    train(config, tmp_path / "parts", until=50, progress=False)
    with safe_open(RunFolder(tmp_path / "parts").trainer(50), framework="pt") as file:
        saved = json.loads(file.metadata()["swath_trainer"])["scaler"]
    assert 1.0 < saved["scale"] < 2.0**60
    train(config, tmp_path / "parts", resume=True, progress=False)
    for file in (tmp_path / "parts" / "checkpoints").glob("step_00000050*"):
        file.unlink()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("enabled", [False, True])
def test_the_norm_of_the_true_gradient_is_clipped(enabled: bool) -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    sgd = torch.optim.SGD(layer.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)
    optimizer = ClippingOptimizer(sgd, scaler, clip_norm=0.5)
    optimizer.backward(layer(torch.tensor([[3.0, 4.0]])).sum())  # of norm 5
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[-0.3, -0.4]]))


def test_a_compiled_model_learns_the_same_and_is_saved_under_the_same_names(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # traced and differentiated as always, but not turned into C++, which takes minutes
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counting))
    for name, compiled in (("eager", False), ("compiled", True)):
        config = toy(model=Spec(Smooth), compile=compiled, ema=0.9)
        train(config, tmp_path / name, progress=False)
    eager, compiled_run = tensors(tmp_path / "eager"), tensors(tmp_path / "compiled")
    assert eager.keys() == compiled_run.keys()
    assert not [name for name in eager if "_orig_mod" in name]
    weights = [name for name in eager if "random/" not in name]
    worst = max(float((eager[name] - compiled_run[name]).abs().max()) for name in weights)
    print(f"largest difference of a weight or moment: {worst:.1e}")
    assert worst < 1e-5
    assert counting.graphs > 0  # type: ignore[attr-defined]
    assert log(tmp_path / "compiled")[-1]["step"] == 12


def test_sync_batchnorm_is_refused_where_torch_does_not_have_it(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sync_batchnorm=True needs GPUs; leave it out on a CPU"):
        train(toy(sync_batchnorm=True), tmp_path, device="cpu", progress=False)


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    toy: Toy, tmp_path: Path, pixelwise: Any
) -> None:
    config = toy(model=Spec(pixelwise, poison=True), val=None, checkpoint_every=2)
    with pytest.raises(TrainingError, match=r"isn't finite in step 6; the checkpoint of step 4"):
        train(config, tmp_path, progress=False)
    assert all(v.isfinite().all() for v in load_file(tmp_path / "last.safetensors").values())


def test_a_folder_with_a_run_is_not_written_over_unasked(toy: Toy, tmp_path: Path) -> None:
    train(toy(iterations=2), tmp_path, progress=False)
    with pytest.raises(ConfigError, match=f"{tmp_path} holds a run already.*--resume.*--overwr"):
        train(toy(iterations=2), tmp_path, progress=False)
    (tmp_path / "mine.txt").write_text("kept")
    train(toy(iterations=1), tmp_path, overwrite=True, progress=False)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert [line["step"] for line in log(tmp_path)] == [1, 1]


def test_a_mistake_in_the_new_config_does_not_cost_the_old_run(
    toy: Toy, tmp_path: Path, squares: Any
) -> None:
    train(toy(iterations=2), tmp_path, progress=False)
    before = tensors(tmp_path)
    with pytest.raises(DataError, match="is empty"):
        train(toy(val=Spec(squares, count=0)), tmp_path, overwrite=True, progress=False)
    assert tensors(tmp_path).keys() == before.keys()
    assert (tmp_path / "log.jsonl").exists()


def test_a_config_json_of_something_else_is_not_written_over(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match="isn't a run's"):
        train(toy(), tmp_path, progress=False)


def test_a_run_is_resumed_only_with_its_own_config(toy: Toy, tmp_path: Path) -> None:
    train(toy(), tmp_path, until=6, progress=False)
    with pytest.raises(ConfigError, match="another batch_size, seed"):
        train(toy(seed=5, batch_size=2), tmp_path, resume=True, progress=False)
    changed = toy(model=Spec(UNet, num_classes=2), optimizer=sgd_poly(lr=1.0), ema=0.5)
    with pytest.raises(ConfigError, match="another model, optimizer, ema; resume it with the sav"):
        train(changed, tmp_path, resume=True, progress=False)
    longer = train(toy(iterations=14, num_workers=1), tmp_path, resume=True, progress=False)
    assert longer.step == 14
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(ConfigError, match=r"config.json: damaged .*remove it and resume"):
        train(toy(), tmp_path, resume=True, progress=False)
    (tmp_path / "config.json").unlink()
    assert train(toy(iterations=15), tmp_path, resume=True, progress=False).step == 15


def test_an_iterable_set_that_cannot_be_resumed_is_refused(
    toy: Toy, tmp_path: Path, tape: Any
) -> None:
    with pytest.raises(ConfigError, match=r"make it map-style or a swath.*SampleStream"):
        train(toy(train=Spec(Endless)), tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"the val set .* is a stream, to train on"):
        train(toy(val=Spec(tape)), tmp_path, progress=False)


def test_an_empty_set_and_labels_out_of_range_are_named(
    toy: Toy, tmp_path: Path, squares: Any
) -> None:
    with pytest.raises(DataError, match=r"the val set .*Squares, count=0.* is empty"):
        train(toy(val=Spec(squares, count=0)), tmp_path, progress=False)
    for workers in (0, 1):
        config = toy(train=Spec(squares, classes=9), augment=None, num_workers=workers)
        with pytest.raises(DataError, match=r"^\d+.tif: the mask holds class 8"):
            train(config, tmp_path / str(workers), progress=False)


@pytest.mark.parametrize(("name", "count"), [("train", 12), ("val", 4)])
def test_processes_with_other_copies_of_a_set_are_refused(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    one_less = lambda n, world: [n, n - 1] if n == count else [n]  # noqa: E731
    monkeypatch.setattr("swath.core.engine.distributed.gather", one_less)
    with pytest.raises(DataError, match=f"the {name} set has {count}, {count - 1} samples in the"):
        train(toy(), tmp_path, progress=False)


class Choosy(SegmentationTask):
    """Wants other data."""

    def check_data(self, dataset: Any) -> None:
        raise ConfigError(f"not these {len(dataset)}")


def test_a_task_may_refuse_a_training_set_before_anything_is_written(
    toy: Toy, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="not these 12"):
        train(toy(task=Spec(Choosy, classes=["a", "b"])), tmp_path, progress=False)
    assert not (tmp_path / "config.json").exists()


def test_what_the_training_set_remarks_is_shown_at_the_end(
    toy: Toy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    squares: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remarks = lambda self: [f"{len(set(self.read))} squares were read"]  # noqa: E731
    monkeypatch.setattr(squares, "remarks", remarks, raising=False)
    train(toy(val=None, iterations=2), tmp_path)
    assert "8 squares were read" in capsys.readouterr().err


def test_pieces_of_the_wrong_kind_are_named(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model must build a torch Module, not a Segmentation"):
        train(toy(model=Spec(SegmentationTask, classes=["a"])), tmp_path, progress=False)
    with pytest.raises(SwathError, match="device 'warp:3' can't be used here"):
        train(toy(), tmp_path, device="warp:3", progress=False)


def never_built(**kwargs: object) -> None:
    raise AssertionError("a model was built for nothing")


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("model.weights.clip", {"model": Spec(never_built, weights={"clip": "gone/clip.pt"})}),
        ("init_from", {"model": Spec(never_built), "init_from": "gone/clip.pt"}),
    ],
)
def test_weights_that_are_not_there_are_named_before_the_model_is_built(
    toy: Toy, tmp_path: Path, key: str, changes: Any
) -> None:
    with pytest.raises(CheckpointError, match=rf"^{key}=gone/clip.pt: no such file; .*--set {key}"):
        train(toy(**changes), tmp_path, progress=False)
    assert not (tmp_path / "config.json").exists()


def test_weights_to_start_from_are_reported_tensor_by_tensor(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str], pixelwise: Any
) -> None:
    first = train(toy(iterations=2, val=None), tmp_path / "a", progress=False)
    config = toy(iterations=2, val=None, init_from=str(first.last_checkpoint))
    train(config, tmp_path / "b")
    assert re.search(r"init_from .*: (\d+) of the model's \1 tensors\n", capsys.readouterr().err)
    with pytest.raises(SwathError, match=r"none of its .* fits the model"):
        train(
            toy(model=Spec(pixelwise), val=None, init_from=str(first.last_checkpoint)),
            tmp_path / "c",
            progress=False,
        )


def test_a_run_resumed_before_its_first_checkpoint_begins_with_its_weights(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(toy(iterations=2, val=None), tmp_path / "a", progress=False)
    config = toy(iterations=2, val=None, init_from=str(first.last_checkpoint))
    train(config, tmp_path / "b", resume=True)
    said = capsys.readouterr().err
    assert "init_from" in said
    assert "resuming" not in said


def test_going_on_with_a_run_and_removing_it_exclude_each_other(toy: Toy, tmp_path: Path) -> None:
    train(toy(iterations=2, val=None), tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"--resume goes on .* choose one"):
        train(toy(iterations=2, val=None), tmp_path, resume=True, overwrite=True, progress=False)
    assert (tmp_path / "last.safetensors").exists()


def test_smoke_runs_a_few_steps_of_everything(toy: Toy, tmp_path: Path) -> None:
    summary = train(smoke(toy(iterations=9_999)), tmp_path, progress=False)
    assert (summary.step, summary.best is not None) == (4, True)


def test_only_the_engine_imports_mmengine() -> None:
    root = Path(swath.core.__path__[0])
    importers = {
        str(file.relative_to(root).parent)
        for file in root.rglob("*.py")
        if re.search(r"^\s*(import|from) mmengine", file.read_text(), re.MULTILINE)
    }
    assert importers == {"engine"}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([], "losses must give scalar tensors by name"),
        ({}, r"no loss \(none was given\) has a gradient"),
        ({"a": 1.0}, "losses must give scalar tensors by name"),
        ({"a": torch.zeros(3)}, "losses must give scalar tensors by name"),
        ({"a": torch.zeros(())}, r"no loss \(a\) has a gradient"),
    ],
)
def test_losses_that_cannot_be_minimised_are_refused(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: Any, message: str
) -> None:
    monkeypatch.setattr(SegmentationTask, "losses", lambda *_: losses)
    with pytest.raises(ConfigError, match=message):
        train(toy(), tmp_path / "run", progress=False)


class NumpyScore(SegmentationTask):
    """Figures as torchmetrics and numpy give them."""

    def metrics(self) -> Any:
        class Figures(type(super().metrics())):  # type: ignore[misc]
            def compute(self) -> dict[str, Any]:
                return {"mIoU": torch.tensor(super().compute()["mIoU"]), "f": np.float32(0.5)}

        return Figures(self.classes)


class OtherScore(SegmentationTask):
    score = "mIuO"


def test_the_score_may_be_a_tensor_and_must_be_there(toy: Toy, tmp_path: Path) -> None:
    config = toy(val=toy().train, val_every=1)
    config.task.target = NumpyScore
    assert train(config, tmp_path / "run", progress=False).best is not None
    config.task.target = OtherScore
    with pytest.raises(ConfigError, match="which isn't among the figures of OtherScore"):
        train(config, tmp_path / "other", progress=False)
