"""Agreement with tensors recorded from the official S5 implementation.

Every fixture of a kind that this package claims (``parity_claims.json``) is checked, wherever it
comes from: the shared folder, or the small copies in ``data/parity``. The JSON beside the tensors
gives the kind, the configuration and the tolerances; a tensor that no check reads is a failure.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from swath.core.backbones.vit import ViT
from swath.core.checkpoint.official import load_strict
from swath.core.heads import UPerNet
from swath.core.models.segmentation import SegmentationModel
from swath.core.models.segmentation import remap_official_keys as remap_s4p_keys
from swath.moe.models.mdf import MDFSegmenter, official_keys, remap_official_keys, s4p_to_moe
from swath.moe.models.vit_moe import TaskFeedForward, ViTMoE

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SWATH_PARITY_DIR", HERE.parents[3] / "shared" / "parity"))
CLAIMED: list[str] = json.loads((HERE / "parity_claims.json").read_text())["s5"]["kinds"]


class Fixture:
    """One recorded case: its manifest, and tensors that remember whether they were read."""

    def __init__(self, path: Path) -> None:
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        self.config: dict[str, Any] = self.manifest["config"]
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.unread = set(self.tensors)
        self.largest = 0.0

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix, by the rest of their names."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def check(self, name: str, got: Tensor) -> None:
        """Compare with the recorded tensor, by the manifest's tolerance."""
        want, tolerance = self[name], self.manifest["tolerance"]
        self.largest = max(self.largest, float((got.detach() - want).abs().max()))
        torch.testing.assert_close(
            got.detach(),
            want,
            rtol=tolerance["rtol"],
            atol=tolerance["atol"],
            msg=lambda text: f"{name}: {text}",
        )


def found() -> dict[str, Path]:
    folders = (HERE / "data/parity", SHARED / "s5")  # the shared one wins
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    return {path.stem: path for path in paths if json.loads(path.read_text())["kind"] in CLAIMED}


def task_names(config: dict[str, Any]) -> list[str]:
    """The names of the experts; officially there may be more experts than names."""
    return list(config["task_names"])


def vit_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The manifest's arguments of the backbone in our spelling."""
    renamed = {"num_expert": "num_experts"}
    return {renamed.get(k, k): v for k, v in config.items() if k != "task_names"}


def check_moe_ffn(case: Fixture) -> None:
    config = case.config
    ffn = TaskFeedForward(
        config["embed_dims"], config["hidden"], config["num_expert"], config["part_features"]
    )
    load_strict(ffn, case.group("state/"))
    x, identity, names = case["in/x"], case["in/identity"], task_names(config)
    for number, name in enumerate(names):
        case.check(f"out/{name}", identity + ffn(x, number))
        case.check(f"out/{name}_no_identity_given", x + ffn(x, number))
    samples = torch.cat([x] * len(names))  # all tasks in one call
    ids = torch.arange(len(names)).repeat_interleave(len(x))
    for name, part in zip(names, (samples + ffn(samples, ids)).split(len(x)), strict=True):
        case.check(f"out/{name}_no_identity_given", part)


def check_vit_moe_backbone(case: Fixture) -> None:
    model = ViTMoE(**vit_arguments(case.config)).eval()
    load_strict(model, case.group("state/"))
    image, names = case["in/image"], task_names(case.config)
    with torch.no_grad():
        single = {name: model(image, number) for number, name in enumerate(names)}
        ids = torch.arange(len(names)).repeat_interleave(len(image))
        mixed = model(torch.cat([image] * len(names)), ids)
    for number, name in enumerate(names):
        rows = slice(number * len(image), (number + 1) * len(image))
        for i, (alone, together) in enumerate(zip(single[name], mixed, strict=True)):
            case.check(f"out/{name}/feat{i}", alone)
            case.check(f"out/{name}/feat{i}", together[rows])


def mdf_of(config: dict[str, Any], classes: dict[str, int]) -> MDFSegmenter:
    backbone = ViTMoE(**vit_arguments(config["vit"]))
    return MDFSegmenter(backbone, classes, config["decoder_channels"], dead_classifier=True).eval()


def check_seg_mdf_end_to_end(case: Fixture) -> None:
    names = task_names(case.config["vit"])
    classes = case.config["num_classes"]
    model = mdf_of(case.config, {name: classes[name] for name in names})
    state = case.group("state/")
    load_strict(model, remap_official_keys(state))
    assert set(official_keys(model.state_dict())) == set(state)
    image = case["in/image"]
    ids = torch.arange(len(names)).repeat_interleave(len(image))
    with torch.no_grad():
        mixed = model(torch.cat([image] * len(names)), ids)
        for number, name in enumerate(names):
            alone = model(image, number)
            assert list(alone.by_task) == [name]
            case.check(f"out/logits_{name}", alone.by_task[name])
            case.check(f"out/logits_{name}", mixed.by_task[name])


def check_s4p_to_moe_transfer(case: Fixture) -> None:
    names, vit = task_names(case.config["vit"]), case.config["vit"]
    expected = remap_official_keys(case.group("state/"))
    heads = {name: len(expected[f"classifiers.{name}.bias"]) for name in names}
    model = mdf_of(case.config, heads)
    before = remap_official_keys(case.group("before/"))
    assert set(remap_official_keys(dict.fromkeys(case.manifest["unchanged"]))) == set(before)
    s4p = case.group("s4p/")
    converted = s4p_to_moe(s4p, names, vit["num_expert"], vit["part_features"])
    load_strict(model, converted | before)
    for name, value in model.state_dict().items():
        case.check(f"state/{next(iter(official_keys({name: None})))}", value)

    twin = ViT(**{k: v for k, v in vit_arguments(vit).items() if k not in MOE_ONLY})
    decoder = UPerNet(twin.channels, case.config["decoder_channels"], dead_classifier=True)
    theirs = remap_s4p_keys(s4p)
    original = SegmentationModel(twin, decoder, len(theirs["classifier.bias"])).eval()
    load_strict(original, theirs)
    height, width = (vit["img_size"],) * 2 if isinstance(vit["img_size"], int) else vit["img_size"]
    image = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = original.decoder(original.backbone(image))
        for number, name in enumerate(names):
            own = model.decoders[name](model.backbone(image, number))
            torch.testing.assert_close(own, features, rtol=1e-5, atol=1e-5)


MOE_ONLY = ("num_experts", "part_features")

CHECKS: dict[str, Callable[[Fixture], None]] = {
    "moe_ffn": check_moe_ffn,
    "s4p_to_moe_transfer": check_s4p_to_moe_transfer,
    "seg_mdf_end_to_end": check_seg_mdf_end_to_end,
    "vit_moe_backbone": check_vit_moe_backbone,
}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", found())
def test_agrees_with_the_official_implementation(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWATH_KERNELS", backend)
    case = Fixture(found()[name])
    CHECKS[case.manifest["kind"]](case)
    assert not case.unread, f"nobody reads {sorted(case.unread)}"
    print(f"{name}, {backend}: {case.largest:.1e}")


def test_every_claimed_kind_has_a_check_and_a_small_copy_covers_the_backbone() -> None:
    assert sorted(CHECKS) == sorted(CLAIMED)
    kinds = {json.loads(p.read_text())["kind"] for p in (HERE / "data/parity").glob("*.json")}
    assert kinds == {"moe_ffn", "vit_moe_backbone"}  # the others are a megabyte each
