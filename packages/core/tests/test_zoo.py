import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from swath.core import plugins, zoo
from swath.core.backbones.vit import ViT
from swath.core.checkpoint.store import describe, load_pair
from swath.core.errors import CheckpointError, ConfigError
from swath.core.models.segmentation import official_keys, s4p_segmenter
from swath.core.zoo import ModelCard


@pytest.fixture
def fresh() -> Iterator[None]:
    """Cards as they are with the plugins that a test declares."""

    def forget() -> None:
        for cached in (zoo.cards, zoo.problems, zoo._collect):
            cached.cache_clear()

    forget()
    yield
    forget()


def test_importing_the_zoo_imports_no_torch() -> None:
    code = "import sys, swath.core.zoo as z; z.cards(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["s4p-vit-b", "s4p-vit-l", "s4p-vit-h"])
def test_the_card_states_the_parameters_its_builder_has(name: str) -> None:
    card = zoo.card(name)
    model_spec, task_spec = card.specs()
    with torch.device("meta"):
        model = model_spec.build()
    assert sum(p.numel() for p in model.parameters()) == card.params
    assert len(card.classes) == model.classifier.out_channels
    assert task_spec.build().classes == card.classes


def test_specs_with_other_classes_leave_the_cards_colours_out() -> None:
    model, task = zoo.card("s4p-vit-b").specs(("water", "land"))
    assert model["num_classes"] == 2
    assert task["classes"] == ["water", "land"]
    assert "palette" not in task


def test_a_model_of_ours_alone_has_no_specs() -> None:
    with pytest.raises(ConfigError, match="'swath-small' has no official layout"):
        zoo.card("swath-small").specs()


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 's4p-vit-"):
        zoo.card("s4p-vit_b")


def test_a_model_without_weights_says_where_to_get_them() -> None:
    with pytest.raises(CheckpointError, match=r"weights=.*Baidu"):
        zoo.load("s4p-vit-b")


def test_plugins_add_cards_and_a_broken_one_is_reported_not_fatal(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = SimpleNamespace(models=(f"{__name__}:CARD",))
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(CARD=ModelCard("mine", "", "x")))
    bad = SimpleNamespace(models=("no.such.module:CARDS",))
    found = (
        plugins.Plugin("good", good),
        plugins.Plugin("bad", bad),
        plugins.Plugin("worse", error="ImportError: x"),
    )
    monkeypatch.setattr(plugins, "plugins", lambda: found)
    assert zoo.card("mine").name == "mine"
    assert zoo.card("swath-small").builtin
    assert "no.such.module" in zoo.problems()["bad"]
    with pytest.raises(ConfigError, match="plugin 'worse' is broken: ImportError: x"):
        zoo.card("nobody-has-this")


@pytest.fixture
def official(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An official-looking file of a small S4P model, the ViT being made tiny."""

    tiny = ViT(64, embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3))
    monkeypatch.setattr("swath.core.models.segmentation.vit", lambda *_, **__: copy.deepcopy(tiny))
    model = s4p_segmenter("b", num_classes=16)
    path = tmp_path / "official.pth"
    state = official_keys(model.state_dict())
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path)
    return path


def test_an_official_file_converts_strictly_and_comes_back(official: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    counts = zoo.convert(official, "s4p-vit-b", out)
    model, task, description = load_pair(out)
    assert counts["tensors"] == len(model.state_dict())
    assert task.classes == zoo.ISAID_CLASSES
    assert description["card"]["converted_from"] == "official.pth"
    direct, _, _ = zoo.load("s4p-vit-b", official)
    again, _, _ = zoo.load("s4p-vit-b", out)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert direct(image).equal(model(image))
        assert again(image).equal(model(image))


def test_other_classes_than_the_files_are_refused(official: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    with pytest.raises(CheckpointError, match=r"classifier\.weight \(16, 256, 1, 1\)"):
        zoo.convert(official, "s4p-vit-b", out, classes=("a", "b"))
    assert not out.exists()


def test_other_classes_drop_the_cards_colours_and_nothing_else(
    official: Path, tmp_path: Path
) -> None:
    kwargs = {"palette": zoo.ISAID_PALETTE, "ignore_index": 7, "dice_weight": 0.5}
    zoo.cards()["mine"] = replace(zoo.card("s4p-vit-b"), name="mine", task_kwargs=kwargs)
    zoo.convert(official, "mine", tmp_path / "x.safetensors", classes=tuple("abcdefghijklmnop"))
    task = describe(tmp_path / "x.safetensors")["task"]
    assert "palette" not in task
    assert (task["ignore_index"], task["dice_weight"]) == (7, 0.5)


@pytest.mark.parametrize("name", ["s4p-vit-l", "swath-small"])
def test_a_checkpoint_of_another_model_is_refused(
    official: Path, tmp_path: Path, name: str
) -> None:
    zoo.convert(official, "s4p-vit-b", tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=f"holds s4p-vit-b, not '{name}'; give the file"):
        zoo.load(name, tmp_path / "x.safetensors")
