"""Cards load official files by name, and what comes out predicts on real raster files."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.crs import CRS
from rasterio.transform import Affine

from swath.core import load_model, zoo
from swath.core.cli import main
from swath.core.errors import CheckpointError, ConfigError, DataError
from swath.core.inference.predictor import Predictor
from swath.core.plugins import resolve
from swath.core.spec import to_data
from swath.ovseg.cards import CARDS
from swath.ovseg.models import gsnet
from swath.ovseg.task import OpenVocabularyTask

PLACE = {"crs": CRS.from_epsg(32633), "transform": Affine(0.3, 0, 412345.0, 0, -0.3, 5212345.0)}
CLASSES = ["building", "flooded road", "tree"]


def scene(path: Path, height: int = 200, width: int = 500, bands: int = 3, dtype: str = "uint8"):
    array = np.random.default_rng(0).integers(1, 255, (bands, height, width)).astype(dtype)
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=dtype, **PLACE
    ) as target:
        target.write(array)
    return path


@pytest.fixture
def official(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in GSNet's layout, and a card ``gsnet-tiny`` that it is for."""
    spec = to_data(tiny.specs["gsnet"])
    spec.pop("_target_")
    card = next(c for c in CARDS if c.name == "gsnet-vitb")
    small = replace(
        card, name="gsnet-tiny", builder="swath.ovseg.models.gsnet:GSNet", builder_kwargs=spec
    )
    monkeypatch.setattr(zoo, "cards", lambda: {small.name: small})
    state = gsnet.official_keys(tiny.build("gsnet").state_dict())
    layer = "sem_seg_head.predictor.transformer.layers.0.swin_block.block_2.attn_mask"
    torch.save(
        {"model": state | {layer: torch.zeros(4, 16, 16)}, "iteration": 1}, tmp_path / "o.pth"
    )
    return tmp_path / "o.pth"


def test_every_card_builds_what_it_says() -> None:
    for card in CARDS:
        with torch.device("meta"):
            model = resolve(card.builder)(**card.builder_kwargs)
        assert sum(p.numel() for p in model.parameters()) == card.params, card.name
        assert resolve(card.converter)({}) == {}
        task = resolve(card.task_builder)(list(card.classes), **card.task_kwargs)
        assert task.classes == card.classes
        assert task.tile == (768 if card.name.startswith("sed") else 384), "what it is trained on"


def test_an_official_file_loads_by_name_and_maps_a_scene(official: Path, tmp_path: Path) -> None:
    image = scene(tmp_path / "scene.tif")
    model = load_model("gsnet-tiny", weights=official, device="cpu")
    out = tmp_path / "map.tif"
    result = model.predict(image, classes=CLASSES, out=out, probabilities=True)
    assert result.classes == tuple(CLASSES)
    with rasterio.open(out) as written:
        assert (written.crs, written.transform) == (PLACE["crs"], PLACE["transform"])
        labels = written.read(1)
    with rasterio.open(tmp_path / "map_probabilities.tif") as written:
        scores = written.read()
    assert scores.shape == (3, 200, 500)
    second, first = np.sort(scores, axis=0)[-2:]
    clear = first - second > 1e-6  # sigmoids of logits that differ may be equal
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(scores.argmax(0)[clear], labels[clear])
    assert not np.allclose(scores.sum(0), 1), "each class has a score of its own"


def test_the_command_line_takes_words(
    official: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = scene(tmp_path / "scene.tif", 64, 64)
    words = ["--classes", "building, flooded road,tree", "--background", "0.5"]
    files = [str(image), "--weights", str(official)]
    monkeypatch.setattr(sys, "argv", ["swath", "predict", "gsnet-tiny", *files, *words, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert '"flooded road"' in capsys.readouterr().out


def test_tiles_meet_without_seams(tiny: Any) -> None:
    predictor = Predictor(tiny.build("gsnet"), OpenVocabularyTask(CLASSES))
    y, x = np.mgrid[:400, :700]
    image = np.stack([127 + 100 * np.sin(x / 40), 127 + 100 * np.cos(y / 30), x % 200], -1)
    image = image.astype(np.uint8)
    result = predictor.predict(image, tile=256, overlap=64, blend=32, probabilities=True)
    steps = np.abs(np.diff(result.probabilities, axis=2)).mean((0, 1))
    borders = [int(v) for v in range(160, 700, 160)]
    across = max(steps[b - 48 : b + 48].mean() for b in borders)
    print(f"step across borders / mean step: {across / steps.mean():.2f}")
    assert across < 1.1 * steps.mean()


def test_other_files_are_refused_in_one_line(official: Path, tmp_path: Path) -> None:
    state = torch.load(official, weights_only=True)["model"]
    state.pop("upsample1.weight")
    torch.save({"model": state}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"less.pth doesn't fit GSNet: 1 missing: upsample1"):
        load_model("gsnet-tiny", weights=tmp_path / "less.pth")


@pytest.mark.parametrize(
    ("bands", "dtype", "options", "error", "message"),
    [
        (1, "uint8", {}, DataError, "1 band"),
        (10, "uint8", {}, DataError, "10 band"),
        (3, "uint16", {}, DataError, "uint16"),
        (10, "uint8", {"bands": [3, 2, 1]}, None, ""),
        (3, "uint16", {"scale": "0:255"}, None, ""),
    ],
)
def test_images_that_arent_rgb_need_a_choice(
    tiny: Any, tmp_path: Path, bands: int, dtype: str, options: Any, error: Any, message: str
) -> None:
    image = scene(tmp_path / "a.tif", 64, 64, bands, dtype)
    predictor = Predictor(tiny.build("catseg"), OpenVocabularyTask(CLASSES))
    if error is None:
        assert predictor.predict(image, **options).mask.shape == (64, 64)
        return
    with pytest.raises(error, match=message):
        predictor.predict(image, **options)


def test_hundreds_of_classes_and_one(tiny: Any) -> None:
    predictor = Predictor(tiny.build("gsnet"), OpenVocabularyTask(CLASSES))
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    many = predictor.predict(image, classes=[f"thing {i}" for i in range(300)])
    assert len(many.classes) == 300
    assert many.mask.dtype == np.uint16
    single = predictor.predict(image, classes=["tree"])
    assert single.classes == ("tree", "background")
    with pytest.raises(ConfigError, match="empty name"):
        predictor.predict(image, classes=["tree", ""])
