import json
import random
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from swath.core import plugins
from swath.core.checkpoint import store
from swath.core.checkpoint.store import describe, file_hash, load_pair, save_model, verify
from swath.core.errors import CheckpointError, UnsafeCheckpointError
from swath.core.heads import LightDecoder
from swath.core.models.segmentation import SegmentationModel, segmentation_model
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec

MODEL = Spec(segmentation_model, backbone="mobilenetv3_small_050", num_classes=2, width=8)
TASK = Spec(SegmentationTask, classes=["land", "water"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("store") / "model.safetensors"
    save_model(path, MODEL.build(), MODEL, TASK, card={"data": "none"}, training={"step": 3})
    return path


def test_a_checkpoint_rebuilds_model_task_and_description(saved: Path) -> None:
    torch.manual_seed(0)
    original = MODEL.build().eval()
    model, task, description = load_pair(saved)
    image = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        assert model(image).equal(original(image))
    assert not model.training
    assert task.classes == ("land", "water")
    assert description["card"] == {"data": "none"}
    assert description["training"] == {"step": 3}
    assert describe(saved) == description


def test_loading_leaves_random_numbers_as_they_were(saved: Path) -> None:
    before = torch.get_rng_state()
    load_pair(saved)
    assert torch.get_rng_state().equal(before)


def test_equal_content_makes_equal_files(tmp_path: Path) -> None:
    weights = {"größe": torch.arange(3.0)}
    files = [tmp_path / f"{index}.safetensors" for index in range(8)]
    for path in files:
        save_model(path, weights, MODEL, TASK, card={"data": 'a "quoted" \\ path, Größe \n'})
        verify(path)
    assert len({path.read_bytes() for path in files}) == 1
    assert load_file(files[0])["größe"].equal(weights["größe"])


def test_half_precision_halves_the_file_and_loads_as_float(saved: Path, tmp_path: Path) -> None:
    model, _, _ = load_pair(saved)
    path = tmp_path / "half.safetensors"
    save_model(path, model, MODEL, TASK, dtype=torch.float16)
    assert path.stat().st_size < 0.6 * saved.stat().st_size
    again, _, _ = load_pair(path)
    for name, value in again.state_dict().items():
        assert value.dtype == model.state_dict()[name].dtype
        torch.testing.assert_close(value, model.state_dict()[name], rtol=2e-3, atol=1e-6)


def test_every_flipped_byte_is_noticed_before_a_tensor_is_read(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(store, "load_safetensors", reached)
    content = saved.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    generator = random.Random(0)
    places = [generator.randrange(8 + header) for _ in range(50)]
    places += [generator.randrange(8 + header, len(content)) for _ in range(50)]
    path = tmp_path / "flipped.safetensors"
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= generator.randrange(1, 256)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_pair(path)


def test_the_hash_covers_the_description(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "edited.safetensors"
    path.write_bytes(saved.read_bytes().replace(b"water", b"waste"))
    assert file_hash(path) != file_hash(saved)
    with pytest.raises(CheckpointError, match="damaged or altered"):
        verify(path)


def test_bare_weights_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"bare weights.*swath convert .* --model NAME"):
        load_pair(path)


def write_description(path: Path, model: object, task: object) -> None:
    description = {"format": 1, "model": model, "task": task, "card": {}, "training": {}}
    metadata = {"swath": json.dumps(description), "sha256": "0" * 64}
    save_file({"a": torch.zeros(2)}, path, metadata)
    store._seal(path)


@pytest.mark.parametrize("target", ["files:atomic_path", "zoo:convert", "data.loader:make_loader"])
def test_a_file_can_name_nothing_but_models_and_tasks(tmp_path: Path, target: str) -> None:
    path = tmp_path / "x.safetensors"
    call = {"_target_": f"swath.core.{target}"}
    task = {"_target_": "swath.core.segmentation:SegmentationTask", "classes": call}
    write_description(path, {"_target_": "swath.core.heads.light:LightDecoder"}, task)
    with pytest.raises(UnsafeCheckpointError, match=target):
        load_pair(path)


def test_a_foreign_module_is_never_imported(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_description(path, {"_target_": "os:system", "command": "true"}, {})
    with pytest.raises(CheckpointError, match="outside the trusted modules"):
        load_pair(path)


def test_a_function_outside_model_folders_is_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_description(path, {"_target_": "swath.core.files:atomic_path", "path": "x"}, {})
    with pytest.raises(UnsafeCheckpointError, match="neither a model nor a task"):
        load_pair(path)


def test_a_newer_format_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {"swath": json.dumps({"format": 2}), "sha256": "0" * 64}
    save_file({"a": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match="format 2"):
        load_pair(path)


def test_the_stored_spec_never_fetches_weights(tmp_path: Path) -> None:
    spec = Spec(segmentation_model, backbone="mobilenetv3_small_050", width=8, pretrained=True)
    path = tmp_path / "x.safetensors"
    save_model(path, spec.build(pretrained=False), spec, TASK)
    assert describe(path)["model"]["pretrained"] is False
    load_pair(path)


def towers(parts: list[object], named: dict[str, object]) -> None:
    """A builder whose parts are in a list and a dict."""


def test_the_stored_spec_has_no_weights_in_any_depth(tmp_path: Path) -> None:
    part = Spec(segmentation_model, weights="a.pth", pretrained=True)
    path = tmp_path / "x.safetensors"
    save_model(path, {"a": torch.zeros(1)}, Spec(towers, parts=[part], named={"b": part}), TASK)
    stored = describe(path)["model"]
    for found in (stored["parts"][0], stored["named"]["b"]):
        assert (found["weights"], found["pretrained"]) == (None, False)


def test_weights_that_a_files_task_names_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    part = {"_target_": "swath.core.models.segmentation:segmentation_model",
            "backbone": "mobilenetv3_small_050", "weights": "absent.pth"}  # fmt: skip
    task = {"_target_": "swath.core.segmentation:SegmentationTask", "classes": ["a"]}
    write_description(
        path, {"_target_": "swath.core.heads.light:LightDecoder"}, task | {"palette": [part]}
    )
    with pytest.raises(CheckpointError) as caught:
        load_pair(path)
    assert "absent.pth" not in str(caught.value)


def test_saving_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        save_model(path, LightDecoder((8,)), MODEL, TASK)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_shared_and_strided_tensors_are_stored(tmp_path: Path) -> None:
    model = SegmentationModel.__new__(SegmentationModel)
    torch.nn.Module.__init__(model)
    shared = torch.randn(4, 3)
    model.register_buffer("a", shared.T)
    model.register_buffer("b", shared)
    model.register_buffer("part", shared[1:3])
    model.register_buffer("same", shared)
    model.register_buffer("nothing", torch.empty(0))
    path = tmp_path / "x.safetensors"
    save_model(path, model, MODEL, TASK)
    verify(path)
    loaded = load_file(path)
    assert loaded.keys() == model.state_dict().keys()
    assert all(loaded[name].equal(value) for name, value in model.state_dict().items())


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="safetensors"):
        save_model(tmp_path / "x.pth", LightDecoder((8,)), MODEL, TASK)


class Mine(nn.Conv2d):
    """A model of somebody's own."""


def test_models_of_installed_plugins_open_and_others_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.safetensors"
    spec = Spec(Mine, in_channels=3, out_channels=2, kernel_size=1)
    save_model(path, spec.build(), spec, Spec(SegmentationTask, classes=["a", "b"]))
    with pytest.raises(CheckpointError, match=r"make its package a plugin, or .*Predictor\(model"):
        load_pair(path)
    module = sys.modules[__name__]
    monkeypatch.setattr(plugins, "plugins", lambda: (plugins.Plugin("mine", module),))
    assert isinstance(load_pair(path)[0], Mine)
