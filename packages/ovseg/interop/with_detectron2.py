"""Our models in detectron2's trainer and evaluator: `uvx nox -s interop_detectron2`.

The suite doesn't collect this file; it needs detectron2's source tree on the import path.
``SWATH_OFFICIAL_CONFIGS`` may name folders with official yaml files, which are then built too.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image

from swath.core.checkpoint.official import load_strict
from swath.core.checkpoint.safe import load_any, load_file
from swath.core.errors import CheckpointError, ConfigError, DataError
from swath.ovseg.interop import detectron2 as interop
from swath.ovseg.metrics import SemSegMetrics
from swath.ovseg.models import catseg, gsnet, rskt_seg
from swath.ovseg.vocabularies import DLRSD

torch.set_num_threads(1)

CLIP: dict[str, Any] = {
    "embed_dim": 32, "image_size": 64, "vision_width": 64, "vision_layers": 3,
    "text_width": 64, "text_heads": 1, "text_layers": 1,
}  # fmt: skip
DINO = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 2}
CONFIG = """
MODEL:
  META_ARCHITECTURE: %s
  DEVICE: cpu
  SEM_SEG_HEAD:
    IGNORE_VALUE: 255
    NUM_CLASSES: 17
    TRAIN_CLASS_JSON: %s
    TEST_CLASS_JSON: %s
    FUSION_TYPE: %s
    NUM_LAYERS: 1
    HIDDEN_DIMS: 32
    WINDOW_SIZES: 4
    DECODER_DIMS: [32, 16]
    TEXT_GUIDANCE_PROJ_DIM: 32
    APPEARANCE_GUIDANCE_PROJ_DIM: 32
    DECODER_GUIDANCE_DIMS: [24, 12]
    DECODER_GUIDANCE_PROJ_DIMS: [16, 8]
    DECODER_CLIP_GUIDANCE_PROJ_DIMS: [16, 8]
    DECODER_DINO_GUIDANCE_PROJ_DIMS: [16, 8]
INPUT:
  MIN_SIZE_TRAIN: (64,)
  MIN_SIZE_TEST: 160
  CROP:
    ENABLED: True
    SIZE: (64, 64)
DATASETS:
  TRAIN: ("DLRSD_train_sem_seg",)
  TEST: ("DLRSD_val_sem_seg",)
DATALOADER:
  NUM_WORKERS: 0
SOLVER:
  IMS_PER_BATCH: 2
  MAX_ITER: 3
  BASE_LR: 0.002
  WARMUP_ITERS: 0
  LR_SCHEDULER_NAME: WarmupCosineLR
  CHECKPOINT_PERIOD: 2
"""
FEW = 4
"""Classes that are looked for, of the 17 that are judged; there are no others in the data."""
FUSION = {"CATSeg": "query_guided", "GSNet": "query_guided", "RSKT_Seg": "simple_separate"}
OFFICIAL = [
    path
    for folder in os.environ.get("SWATH_OFFICIAL_CONFIGS", "").split(os.pathsep)
    for path in sorted(Path(folder or "absent").glob("vit*.yaml"))  # not those that these extend
]


@pytest.fixture
def small(monkeypatch) -> None:
    """Towers of a few thousand parameters in the place of CLIP and DINO."""
    for size in ("b", "b32"):
        patch = {"patch_size": 32} if size == "b32" else {}
        monkeypatch.setitem(interop.CLIP_SIZES, size, CLIP | patch)
    few = {"specialist": DINO, "dino_taps": (0, 1)}
    monkeypatch.setattr(gsnet, "GSNet", partial(gsnet.GSNet, **few))
    remote = {"remote_taps": (0, 1)}
    monkeypatch.setattr(rskt_seg, "RSKTSeg", partial(rskt_seg.RSKTSeg, **few, **remote))


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A copy of DLRSD with a few images."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        folder = tmp_path / "datasets/DLRSD_split" / split
        for kind in ("imgs", "D2masks"):
            (folder / kind).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (100, 120 + i, 3), dtype=np.uint8)
            mask = np.kron(rng.integers(0, FEW, (10, 13)), np.ones((10, 10)))[:, : 120 + i]
            mask[:7] = 255
            Image.fromarray(pixels).save(folder / f"imgs/{i}.jpg")
            Image.fromarray(mask.astype(np.uint8)).save(folder / f"D2masks/{i}.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return tmp_path


@pytest.fixture
def config(data) -> Any:
    """``config(model, *overrides)``: a config of the small models, read from a file."""

    def make(model: str, *overrides: str) -> Any:
        path = data / f"{model}.yaml"
        names = data / "few.json"
        names.write_text(json.dumps(DLRSD[:FEW]))
        path.write_text(CONFIG % (model, names, names, FUSION[model]))
        cfg = interop.read_config(path, ["OUTPUT_DIR", str(data / "run"), *overrides])
        Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
        return cfg

    return make


def test_data_sets_are_registered_under_their_official_names(data) -> None:
    assert set(interop.NAMES) <= set(DatasetCatalog.list())
    records = DatasetCatalog.get("DLRSD_val_sem_seg")
    assert [Path(r["file_name"]).name for r in records] == ["0.jpg", "1.jpg"]
    assert [Path(r["sem_seg_file_name"]).parent.name for r in records] == ["D2masks"] * 2
    metadata = MetadataCatalog.get("potsdam_all")
    assert len(metadata.stuff_classes) == 5
    assert metadata.ignore_label == 5
    with pytest.raises(DataError, match="VDD"):
        DatasetCatalog.get("VDD_all_sem_seg")


@pytest.mark.parametrize("name", list(FUSION))
def test_trains_resumes_and_evaluates_by_detectron2s_own_means(name, config, small) -> None:
    cfg = config(name, "SOLVER.MAX_ITER", "2")
    torch.manual_seed(0)
    trainer = interop.Trainer(cfg)
    trainer.resume_or_load(resume=False)
    start = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    saved = load_file(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    assert {k.split(".")[0] for k in saved} >= {"sem_seg_head", "upsample1"}
    assert any(not torch.equal(v, start[k]) for k, v in saved.items())

    resumed = interop.Trainer(config(name, "SOLVER.MAX_ITER", "3"))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    assert all(torch.equal(v, saved[k]) for k, v in resumed.model.state_dict().items())
    resumed.train()

    cfg = config(name, "MODEL.WEIGHTS", str(Path(cfg.OUTPUT_DIR) / "model_final.pth"))
    model = interop.Trainer.build_model(cfg)
    interop.load_weights(model, cfg.MODEL.WEIGHTS)
    figures = interop.Trainer.test(cfg, model)["sem_seg"]
    own = SemSegMetrics(DLRSD)
    model.eval()
    masks = {r["file_name"]: r["sem_seg_file_name"] for r in DatasetCatalog.get(*cfg.DATASETS.TEST)}
    for inputs in interop.Trainer.build_test_loader(cfg, *cfg.DATASETS.TEST):
        (output,) = model(inputs)
        assert output["sem_seg"].shape == (FEW, inputs[0]["height"], inputs[0]["width"])
        mask = torch.from_numpy(np.array(Image.open(masks[inputs[0]["file_name"]])))
        own.update([output["sem_seg"]], {"mask": mask[None]})
    computed = own.compute()
    print(json.dumps({k: [figures[k], 100 * computed[k]] for k in ("mIoU", "mACC")}))
    for figure in ("mIoU", "mACC", "fwIoU", "pACC"):
        assert figures[figure] == pytest.approx(100 * computed[figure], abs=1e-9)


def test_the_command_evaluates_an_official_file(config, small) -> None:
    cfg = config("GSNet", "TEST.SLIDING_WINDOW", "True")
    model = META_ARCH_REGISTRY.get("GSNet")(cfg)
    weights = Path(cfg.OUTPUT_DIR) / "official.pth"
    torch.save({"model": model.state_dict(), "iteration": 29_999}, weights)
    path = Path(cfg.OUTPUT_DIR).parent / "GSNet.yaml"
    overrides = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", cfg.OUTPUT_DIR]
    interop.main(
        ["--config-file", str(path), "--eval-only", *overrides, "TEST.SLIDING_WINDOW", "True"]
    )
    results = load_any(Path(cfg.OUTPUT_DIR) / "inference/sem_seg_evaluation.pth")
    assert 0 < results["mACC"] < 100

    # and by detectron2's own reader, as its DefaultPredictor does
    fresh = META_ARCH_REGISTRY.get("GSNet")(cfg)
    DetectionCheckpointer(fresh).load(str(weights))
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    load_strict(fresh.model, gsnet.remap_official_keys(load_file(weights)))


def test_towers_begin_with_their_files(config, small, data) -> None:
    with pytest.warns(UserWarning, match="clip, specialist: no file is named"):
        source = META_ARCH_REGISTRY.get("GSNet")(config("GSNet"))
    state = {f"backbone.{k}": v for k, v in source.model.specialist.vit.state_dict().items()}
    torch.save({"teacher": state}, data / "RSIB.pth")
    named = config("GSNet", "MODEL.SEM_SEG_HEAD.DINO_WEIGHTS", str(data / "RSIB.pth"))
    with pytest.warns(UserWarning, match="^clip: no file is named"):
        built = META_ARCH_REGISTRY.get("GSNet")(named)
    for own, value in zip(
        built.model.specialist.vit.parameters(), source.model.specialist.vit.parameters(),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(own, value)


def test_what_cannot_be_done_is_said_in_one_line(config, small, data) -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.OPTIMIZER is SGD; only ADAMW"):
        config("GSNet", "SOLVER.OPTIMIZER", "SGD")
    with pytest.raises(ConfigError, match="NUMBER_OF_LAYERS"):
        config("GSNet", "MODEL.SEM_SEG_HEAD.NUMBER_OF_LAYERS", "3")
    with pytest.raises(ConfigError, match="no such file of class names"):
        interop.class_names("datasets/mine.json")
    with pytest.raises(ConfigError, match="CLIP_PRETRAINED is ViT-H"):
        META_ARCH_REGISTRY.get("GSNet")(
            config("GSNet", "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", "ViT-H")
        )
    model = META_ARCH_REGISTRY.get("GSNet")(config("GSNet"))
    torch.save({"model": {"sem_seg_head.x": torch.zeros(1)}}, data / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth doesn't fit GSNet"):
        interop.load_weights(model, data / "other.pth")


if OFFICIAL:  # else there is nothing to test, which pytest would call a skip

    @pytest.mark.parametrize("path", OFFICIAL, ids=lambda p: f"{p.parents[1].name}-{p.stem}")
    def test_official_files_give_the_published_models(path) -> None:
        cfg = interop.read_config(path, ["MODEL.DEVICE", "meta"])
        names = {f"{part}_CLASS_JSON": "datasets/DLRSD.json" for part in ("TRAIN", "TEST")}
        cfg.MODEL.SEM_SEG_HEAD.update(names)  # CAT-Seg's, of COCO, isn't known here
        head, size = cfg.MODEL.SEM_SEG_HEAD, "l" if "vitl" in path.stem else "b"
        builders = {"CATSeg": catseg.catseg, "GSNet": gsnet.gsnet, "RSKT_Seg": rskt_seg.rskt_seg}
        expected = builders[cfg.MODEL.META_ARCHITECTURE]
        cfg.MODEL.WEIGHTS = "model_final.pth"  # else the towers' files are asked for
        with torch.device("meta"):
            ours = expected(size, num_layers=head.NUM_LAYERS)
            built = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
        shapes = {k: v.shape for k, v in built.model.state_dict().items()}
        assert shapes == {k: v.shape for k, v in ours.state_dict().items()}
        trained = {k for k, p in ours.named_parameters() if p.requires_grad}
        assert {k for k, p in built.model.named_parameters() if p.requires_grad} == trained
        print(json.dumps({path.stem: sum(p.numel() for p in built.parameters())}))
