"""Agreement with tensors recorded from the official S5 implementation.

Every fixture of a kind that core claims (``parity_claims.json``) is checked, wherever it comes
from: the shared folder, or the small copies in ``data/parity``. The JSON beside the tensors gives
the kind, the configuration and the tolerances; a tensor that no check reads is a failure.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from swath.core.backbones.rvsa import RVSA
from swath.core.backbones.vit import ViT
from swath.core.checkpoint.official import load_strict, mae_to_vit
from swath.core.heads import UPerNet
from swath.core.inference.protocols import EvaluationMode
from swath.core.metrics.segmentation import ConfusionMatrix
from swath.core.models.segmentation import (
    SegmentationModel,
    official_keys,
    remap_official_keys,
)
from swath.core.sample import Sample
from swath.core.segmentation import SegmentationTask, cross_entropy

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SWATH_PARITY_DIR", HERE.parents[3] / "shared" / "parity"))
CLAIMED: list[str] = json.loads((HERE / "parity_claims.json").read_text())["s5"]["kinds"]


class Fixture:
    """One recorded case: its manifest, and tensors that remember whether they were read."""

    def __init__(self, path: Path) -> None:
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        self.config: Any = self.manifest["config"]
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.unread = set(self.tensors)
        self.maxima: dict[str, float] = {}

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix, by the rest of their names."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def check(self, name: str, got: Tensor) -> None:
        """Compare with the recorded tensor, by the manifest's tolerance for its group."""
        tolerance = self.manifest["tolerance"]
        tolerance = tolerance.get(name.split("/")[0], tolerance)
        want = self[name]
        assert got.shape == want.shape, name
        group = name.split("/")[0]
        error = float((got.detach() - want).abs().max())
        self.maxima[group] = max(self.maxima.get(group, 0.0), error)
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


@contextmanager
def recorded(hooks: dict[str, tuple[nn.Module, str]]) -> Iterator[dict[str, Tensor]]:
    """Outputs (or first inputs) of modules during a forward pass, by name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, side: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = (output if side == "out" else inputs[0]).detach().clone()

        return hook

    handles = [m.register_forward_hook(keep(name, side)) for name, (m, side) in hooks.items()]
    yield seen
    for handle in handles:
        handle.remove()


def vit_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The manifest's arguments of a ViT, and which neck the official code gives its patches."""
    return config | {"coarse_neck": config.get("patch_size") == 8}


def check_vit(case: Fixture) -> None:
    model = ViT(**vit_arguments(case.config)).eval()
    load_strict(model, case.group("state/"))
    hooks: dict[str, tuple[nn.Module, str]] = {
        "patch_tokens": (model.patch_embed, "out"),
        "tokens_with_pos": (model.layers[0], "in"),
    }
    for i, layer in enumerate(model.layers):
        hooks[f"layer{i}_after_attn"] = (layer.ln2, "in")
        hooks[f"layer{i}_out"] = (layer, "out")
    with recorded(hooks) as seen, torch.no_grad():
        features = model(case["in/image"])
    seen["patch_tokens"] = seen["patch_tokens"].flatten(2).transpose(1, 2)
    for name, value in seen.items():
        case.check(f"mid/{name}", value)
    for i, value in enumerate(features):
        case.check(f"out/feat{i}", value)


def check_rvsa(case: Fixture) -> None:
    model = RVSA(**case.config, official_quirks=True).eval()
    load_strict(model, case.group("state/"))
    hooks: dict[str, tuple[nn.Module, str]] = {}
    for i, block in enumerate(model.blocks):
        hooks[f"block{i}_attn"] = (block.attn, "out")
        hooks[f"block{i}_out"] = (block, "out")
    with recorded(hooks) as seen, torch.no_grad():
        features = model(case["in/image"])
    for name, value in seen.items():
        case.check(f"mid/{name}", value)
    for i, value in enumerate(features):
        case.check(f"out/feat{i}", value)


def check_mae_to_vit(case: Fixture) -> None:
    model = ViT(**vit_arguments(case.config)).eval()
    mae = case.group("mae/")
    extra = mae["pos_embed"].shape[1] - case.manifest["mae_grid"] ** 2
    converted = mae_to_vit(mae, model.grid, extra_tokens=extra)
    assert set(converted) == set(case.manifest["keys_from_checkpoint"])
    for name, value in converted.items():
        case.check(f"state/{name}", value)
    load_strict(model, converted, may_miss=("fpn",))
    neck = {name: value for name, value in case.group("state/").items() if name.startswith("fpn")}
    load_strict(model, converted | neck)
    with torch.no_grad():
        for i, value in enumerate(model(case["in/image"])):
            case.check(f"out/feat{i}", value)


def check_seg_s4p_end_to_end(case: Fixture) -> None:
    config = case.config
    vit = ViT(**vit_arguments(config["vit"]))
    decoder = UPerNet(
        vit.channels, config["decoder_channels"], config["pool_scales"], dead_classifier=True
    )
    model = SegmentationModel(
        vit, decoder, config["num_classes"], align_corners=True, crop_padding=False
    ).eval()
    state = case.group("state/")
    load_strict(model, remap_official_keys(state))
    assert set(official_keys(model.state_dict())) == set(state)

    image, mask = case["in/image"], case["in/mask"]
    logits = model(image)
    case.check("out/logits", logits)
    loss = cross_entropy(logits, mask, config["ignore_index"])
    case.check("out/ce_loss", loss)
    loss.backward()
    parameters = official_keys(dict(model.named_parameters()))
    for name in case.group("grad/"):
        gradient = parameters[name].grad
        assert gradient is not None, name
        case.check(f"grad/{name}", gradient)
    without = {name for name, value in parameters.items() if value.grad is None}
    assert without == set(case.manifest["parameters_without_gradient"])

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    hooks: dict[str, tuple[nn.Module, str]] = {
        "psp_out": (decoder.bottleneck, "out"),
        "decoder_feat": (decoder.fpn_bottleneck, "out"),
    }
    for i in range(3):
        hooks[f"lateral{i}_raw"] = (decoder.lateral_convs[i], "out")
        hooks[f"fpn{i}"] = (decoder.fpn_convs[i], "out")
    with recorded(hooks) as seen, torch.no_grad():
        case.check("out/logits_bn_batch_stats", model(image))
        seen |= {f"enc{i}": value for i, value in enumerate(vit(image))}
    for name, value in seen.items():
        case.check(f"mid/{name}", value)


def check_seg_metrics(case: Fixture) -> None:
    for i, config in enumerate(case.config):
        for variant, official_bin in (("numpy", True), ("torch", False)):
            matrix = ConfusionMatrix(**config, count_ignored_as_last_class=official_bin)
            matrix.update(case[f"case{i}/in/pred"], case[f"case{i}/in/target"])
            counts = {
                "intersection": matrix.intersection,
                "union": matrix.union,
                "target": matrix.target,
                "predict": matrix.prediction,
            }
            for name, got in counts.items():
                assert got.tolist() == case[f"case{i}/out/{variant}_{name}"].tolist(), (i, name)
            assert matrix.matrix is not None
            assert matrix.matrix.diagonal().equal(matrix.intersection)
            assert matrix.matrix.sum(0).equal(matrix.prediction)


class StandIn(nn.Module):
    """The two-layer network of the evaluation fixtures, sized by its weights."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for name in ("c1", "c2"):
            out, channels, kernel, _ = state[f"{name}.weight"].shape
            setattr(self, name, nn.Conv2d(channels, out, kernel, padding=kernel // 2))
        self.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = 3 * self.c2(torch.tanh(self.c1(x)))
        return y


def check_evaluation(case: Fixture) -> None:
    config, tolerance = case.config, case.manifest["tolerance"]
    modes: dict[str, Any] = {"slide_window": "slide", "resize": "resize", "original": "whole"}
    task = SegmentationTask(
        [str(i) for i in range(config["num_classes"])],
        ignore_index=config["ignore_index"],
        evaluation=EvaluationMode(
            modes[config["mode"]],
            size=config["crop_size"],
            step=config["window_step"],
            flip=config["flip_tta"],
            repeat_clamped_windows=True,
        ),
        mean_over="all",
        count_ignored_as_last_class=True,
    )
    model = StandIn(case.group("state/")).eval()
    batch = task.collate(
        [
            Sample(image, {"mask": mask})
            for image, mask in zip(case["in/image_uint8"], case["in/target"], strict=True)
        ]
    )
    logits = task.predict(model, batch)
    prediction = torch.stack([x.argmax(0) for x in logits])
    different = float((prediction != case["out/pred"]).float().mean())
    case.maxima["pred_mismatch"] = different
    assert different <= tolerance["pred_max_mismatch_fraction"]

    metrics = task.metrics()
    metrics.update(logits, batch)
    figures = metrics.compute()
    table = figures["per_class"].values()
    expected = {
        "iou_percent": [100 * (row["IoU"] or 0) for row in table],
        "f1_percent": [100 * row["F1"] if row["F1"] else math.nan for row in table],
        "miou_percent": 100 * figures["mIoU"],
        "mf1_percent": 100 * figures["mF1"],
        "macc_percent": 100 * figures["mACC"],
        "overall_acc_fraction": figures["OA"],
    }
    for name, got in expected.items():
        want = case[f"out/{name}"].double()
        value = torch.tensor(got, dtype=torch.float64)
        if name == "mf1_percent" and want.isnan():  # officially so when a class has no hit
            assert not all(row["F1"] for row in table)
            continue
        case.maxima[name] = float((value - want).abs().nan_to_num().max())
        torch.testing.assert_close(
            value, want, rtol=0, atol=tolerance["metrics_abs"], equal_nan=True
        )


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "eval_original_flip": check_evaluation,
    "eval_resize": check_evaluation,
    "eval_slide_window": check_evaluation,
    "mae_to_vit": check_mae_to_vit,
    "rvsa": check_rvsa,
    "seg_metrics": check_seg_metrics,
    "seg_s4p_end_to_end": check_seg_s4p_end_to_end,
    "vit": check_vit,
}


@pytest.mark.parametrize("name", found())
def test_agrees_with_the_official_implementation(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    case = Fixture(found()[name])
    CHECKS[case.manifest["kind"]](case)
    assert not case.unread, f"nobody reads {sorted(case.unread)}"
    record_property("maxima", case.maxima)
    print(name, {key: f"{value:.1e}" for key, value in case.maxima.items()})


def test_every_claimed_kind_has_a_check_and_a_small_copy_covers_most() -> None:
    assert sorted(CHECKS) == sorted(CLAIMED)
    kinds = {json.loads(p.read_text())["kind"] for p in (HERE / "data/parity").glob("*.json")}
    assert {"vit", "rvsa", "mae_to_vit", "seg_metrics", "eval_resize"} <= kinds
