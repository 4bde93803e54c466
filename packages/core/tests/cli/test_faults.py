"""What a user gets wrong ends in one line with place, value and fix, and exit code 2."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from safetensors.torch import save_file

from swath.core.checkpoint.store import save_model
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

Swath = Callable[..., tuple[int, str, str]]

CONFIG = '''"""Tiles in a folder."""
from swath.core.data.segmentation import FolderSegmentation
from swath.core.engine.pieces import adamw_cosine
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

_classes = ["ground", "roof"]
model = Spec(UNet, in_channels=3, num_classes=2, width=4, depth=2)
task = Spec(SegmentationTask, classes=_classes)
train = Spec(FolderSegmentation, images="ROOT/images", masks="ROOT/masks", classes=_classes)
optimizer = adamw_cosine(lr=1e-3)
iterations = 2
batch_size = 2
num_workers = 0
'''


@dataclass
class Place:
    """A folder with four labelled tiles, a config that trains on them, and checkpoints."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "run.py"

    def append(self, text: str) -> None:
        self.config.write_text(self.config.read_text() + text + "\n")

    def tile(self, index: int) -> Path:
        return self.root / "images" / f"t{index}.png"

    def mask(self, index: int) -> Path:
        return self.root / "masks" / f"t{index}.png"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    made = Place(tmp_path)
    generator = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made.tile(i))
        Image.fromarray(pixels[..., 0] // 128).save(made.mask(i))
    made.config.write_text(CONFIG.replace("ROOT", str(tmp_path)))
    model = Spec(UNet, in_channels=3, num_classes=2, width=4, depth=2)
    for name, classes in (("good", ["ground", "roof"]), ("other", ["land", "sea"])):
        task = Spec(SegmentationTask, classes=classes)
        save_model(tmp_path / f"{name}.safetensors", model.build(), model, task)
    save_file({"weight": torch.zeros(2)}, tmp_path / "bare.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "notes.tif").write_text("not a raster")
    return made


class Evil:
    def __reduce__(self) -> object:
        return (print, ("executed",))


def nothing(place: Place) -> None:
    """The fault is in the arguments."""


def sixteen_bit(place: Place) -> None:
    for i in range(4):
        place.tile(i).unlink()
        path = place.tile(i).with_suffix(".tif")
        with rasterio.open(path, "w", width=32, height=32, count=3, dtype="uint16") as raster:
            raster.write(np.full((3, 32, 32), 999, dtype=np.uint16))


FAULTS: dict[str, tuple[Callable[[Place], object], str, tuple[str, ...]]] = {
    # name: (what is wrong, the command, what the line says)
    "unknown config": (nothing, "train scene_tiny", ("'scene_tiny'", "did you mean 'scenes_tiny'")),
    "no such config file": (nothing, "train no/run.py", ("no/run.py", "swath configs")),
    "syntax error": (lambda p: p.append("x = ("), "train run.py", ("run.py", "SyntaxError")),
    "failing config": (lambda p: p.append("1 / 0"), "train run.py", ("run.py", "line 16")),
    "misspelt field": (
        lambda p: p.append("iteration = 3"),
        "train run.py",
        ("run.py", "'iteration'", "did you mean 'iterations'"),
    ),
    "misspelt argument": (
        lambda p: p.append("model = Spec(UNet, in_chanels=3)"),
        "train run.py",
        ("run.py", "'in_chanels'", "did you mean 'in_channels'"),
    ),
    "misspelt override": (
        nothing,
        "train run.py --set optim.lrr=1",
        ("'optim'", "did you mean 'optimizer.lr'"),
    ),
    "override of the wrong type": (
        nothing,
        "train run.py --set iterations=many",
        ("iterations='many'", "must be int"),
    ),
    "override out of range": (
        nothing,
        "train run.py --set batch_size=0",
        ("batch_size=0", "at least 1"),
    ),
    "override without a value": (nothing, "train run.py --set lr", ("'lr'", "key.path=value")),
    "impossible rate": (
        nothing,
        "train run.py --set optimizer.lr=-1",
        ("optimizer.lr=-1", "above 0"),
    ),
    "missing folder": (
        nothing,
        "train run.py --set train.images=nowhere",
        ("nowhere",),
    ),
    "empty folder": (
        lambda p: [p.tile(i).unlink() for i in range(4)],
        "train run.py",
        ("images",),
    ),
    "missing mask": (lambda p: p.mask(2).unlink(), "train run.py", ("t2",)),
    "wrong class count": (
        lambda p: Image.fromarray(np.full((32, 32), 7, np.uint8)).save(p.mask(1)),
        "train run.py --set iterations=4",
        ("t1.png", "label value 7", "protocol"),
    ),
    "sizes differ": (
        lambda p: Image.fromarray(np.zeros((16, 16), np.uint8)).save(p.mask(1)),
        "train run.py --set iterations=4",
        ("t1.png", "16"),
    ),
    "truncated image": (
        lambda p: p.tile(3).write_bytes(p.tile(3).read_bytes()[:300]),
        "train run.py --set iterations=4",
        ("t3.png",),
    ),
    "16 bit into 8 bit": (sixteen_bit, "train run.py", ("uint16", ".tif")),
    "wrong band count": (
        lambda p: [Image.fromarray(np.zeros((32, 32), np.uint8)).save(p.tile(i)) for i in range(4)],
        "train run.py",
        (".png", "1", "3"),
    ),
    "absent device": (nothing, "train run.py --device warp", ("'warp'", "swath doctor")),
    "run folder is a file": (
        nothing,
        "train run.py --run-dir notes.tif",
        ("notes.tif", "choose another"),
    ),
    "run folder in use": (
        lambda p: (
            (p.root / "runs/run").mkdir(parents=True)
            or (p.root / "runs/run/log.jsonl").write_text("{}\n")
        ),
        "train run.py",
        ("runs/run", "--resume", "--overwrite"),
    ),
    "config.json of something else": (
        lambda p: (p.root / "config.json").write_text("{}"),
        "train run.py --run-dir .",
        ("config.json", "choose another"),
    ),
    "damaged config.json": (
        lambda p: (p.root / "config.json").write_text("{"),
        "train config.json",
        ("config.json", "isn't JSON"),
    ),
    "config.json that would run anything": (
        lambda p: (p.root / "config.json").write_text(
            json.dumps(
                {"iterations": 1, "task": {}, "train": {}, "optimizer": {}}
                | {"model": {"_target_": "os:system", "command": "id"}}
            )
        ),
        "train config.json",
        ("config.json", "os:system", "trusted"),
    ),
    "missing initial weights": (
        nothing,
        "train run.py --set init_from=gone.safetensors",
        ("gone.safetensors",),
    ),
    "malicious initial weights": (nothing, "train run.py --set init_from=evil.pth", ("evil.pth",)),
    "foreign initial weights": (
        nothing,
        "train run.py --set init_from=bare.safetensors",
        ("bare.safetensors", "none of its 1 tensors", "convert"),
    ),
    "missing checkpoint": (nothing, "test run.py gone.safetensors --split train", ("gone",)),
    "truncated checkpoint": (
        nothing,
        "test run.py cut.safetensors --split train",
        ("cut.safetensors",),
    ),
    "bare weights": (
        nothing,
        "test run.py bare.safetensors --split train",
        ("bare.safetensors", "swath convert"),
    ),
    "malicious checkpoint": (nothing, "test run.py evil.pth --split train", ("evil.pth",)),
    "other classes": (
        nothing,
        "test run.py other.safetensors --split train",
        ("0: 'land' for 'ground', 1: 'sea' for 'roof'",),
    ),
    "absent split": (
        nothing,
        "test run.py good.safetensors --split val",
        ("'val'", "choose one of train"),
    ),
    "unknown config to show": (nothing, "configs scenes_tin", ("did you mean 'scenes_tiny'",)),
    "unknown model": (nothing, "models no-such-model", ("no-such-model",)),
    "unknown data set": (nothing, "datasets vaihinge", ("did you mean 'vaihingen'",)),
    "missing weights to inspect": (nothing, "weights inspect gone.pth", ("gone.pth",)),
    "malicious weights to inspect": (nothing, "weights inspect evil.pth", ("evil.pth",)),
    "missing data to check": (nothing, "data check gone_folder", ("gone_folder",)),
    "unknown model to predict with": (nothing, "predict no-such-model images/t0.png", ("no-such",)),
    "missing image": (nothing, "predict good.safetensors gone.tif", ("gone.tif",)),
    "not a raster": (nothing, "predict good.safetensors notes.tif", ("notes.tif",)),
    "absent device to predict on": (
        nothing,
        "predict good.safetensors images/t0.png --device warp",
        ("'warp'", "swath doctor"),
    ),
    "numbers of a table of colours": (
        lambda p: Image.open(p.tile(0)).convert("P").save(p.tile(0)),
        "predict good.safetensors images/t0.png --bands 1,1,1",
        ("t0.png", "gdal_translate -expand rgb"),
    ),
    "unknown model to convert for": (
        nothing,
        "convert evil.pth --model no-such -o out.safetensors",
        ("no-such",),
    ),
    "a file in the way of a converted one": (
        nothing,
        "convert evil.pth --model s4p-vit-b -o good.safetensors",
        ("good.safetensors exists", "--overwrite"),
    ),
    "missing mask to vectorise": (nothing, "vectorise gone.tif -o out.gpkg", ("gone.tif",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_with_place_and_fix(name: str, place: Place, swath: Swath) -> None:
    break_it, command, says = FAULTS[name]
    break_it(place)
    code, out, err = swath(*command.split())
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 2, (out, err)
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert "executed" not in out + err
    for part in says:
        assert part in lines[0]
