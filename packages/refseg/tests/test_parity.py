"""Agreement with tensors recorded from the official RemoteSAM implementation.

Every fixture of a kind that this package claims (``parity_claims.json``) is checked, wherever it
comes from: the shared folder, or the small copies in ``data/parity``. Its kind is the fixture's
name without its number; the JSON beside the tensors gives configuration and tolerances; a tensor
that no check reads is a failure.
"""

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.checkpoint.official import load_strict
from swath.core.metrics.captioning import CaptionMetrics
from swath.core.metrics.counting import CountingMetrics
from swath.core.metrics.detection import DetectionMetrics
from swath.core.metrics.multilabel import MultiLabelMetrics
from swath.core.metrics.referring import GroundingMetrics, ReferringMetrics
from swath.core.metrics.segmentation import SegmentationMetrics
from swath.core.structures import Detections
from swath.refseg.captions import caption, chooser
from swath.refseg.epoc import border_taper, boundary_map, crop_boxes
from swath.refseg.losses import cross_entropy, dice, referring_losses
from swath.refseg.models.cross_scale import CrossScaleInteraction
from swath.refseg.models.remotesam import (
    MultiModalSwin,
    RemoteSAM,
    RotatedDecoder,
    remap_official_keys,
    remotesam,
)
from swath.refseg.models.rotated_conv import AdaptiveRotatedConv2d, rotation_matrix
from swath.refseg.optimizers import RemoteSAMAdamW
from swath.refseg.postprocess import (
    as_maps,
    detect,
    enclosing,
    inside_upright,
    larger_than,
    mask_to_boxes,
    merge_masks,
    presence,
)
from swath.refseg.results import ChosenClass
from swath.refseg.sets import PRIOR_SHARE
from swath.refseg.text import PROMPT, WordPieces

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SWATH_PARITY_DIR", HERE.parents[3] / "shared" / "parity"))
CLAIMED: list[str] = json.loads((HERE / "parity_claims.json").read_text())["refseg"]["kinds"]


class Fixture:
    """One recorded case: its manifest, and tensors that remember whether they were read."""

    def __init__(self, path: Path) -> None:
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        self.config: dict[str, Any] = self.manifest.get("config", {})
        stored = path.with_suffix(".safetensors")
        self.tensors = load_file(stored) if stored.exists() else {}
        self.unread = set(self.tensors)
        self.largest = 0.0

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        value = self.tensors[name]
        return value.float() if value.dtype == torch.float16 else value

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix, by the rest of their names."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def array(self, name: str) -> Any:
        return self[name].numpy()

    def load(self, model: nn.Module) -> Any:
        """The model in eval mode with the recorded weights, loaded strictly."""
        load_strict(model, self.group("sd."))
        return model.eval()

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


def kind_of(name: str) -> str:
    return re.sub(r"_?\d+$", "", name)


def found() -> dict[str, Path]:
    folders = (HERE / "data/parity", SHARED / "refseg")  # the shared one wins
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    return {path.stem: path for path in paths if kind_of(path.stem) in CLAIMED}


def recorded(module: nn.Module, notes: dict[str, Any], name: str) -> None:
    """Note what a module returns."""
    module.register_forward_hook(lambda _module, _inputs, output: notes.update({name: output}))


def check_arc(case: Fixture) -> None:
    config = case.config
    conv = AdaptiveRotatedConv2d(
        config["in_channels"],
        config["out_channels"],
        config["kernel_number"],
        stride=config["stride"],
        padding=config["padding"],
        dilation=config["dilation"],
        groups=config["groups"],
    )
    conv.rounting_func.max_angle = np.radians(config["proportion_deg"])
    case.load(conv)
    x = case["in.x"]
    with torch.no_grad():
        alphas, angles = conv.rounting_func(x)
        case.check("mid.routing_pooled", conv.rounting_func.pooled(x)[..., None, None])
        case.check("mid.alphas", alphas)
        case.check("mid.angles", angles)
        case.check("mid.rotation_matrix", rotation_matrix(angles))
        case.check("mid.rotated_weight", conv.rotated_weight(alphas, angles).flatten(0, 1))
        case.check("out.y", conv(x))


def check_arc_rotmat(case: Fixture) -> None:
    case.check("out.matrix", rotation_matrix(case["in.theta_rad"]))


def check_cim(case: Fixture) -> None:
    config = case.config
    module = case.load(
        CrossScaleInteraction(config["channels"], config["grid"], config["num_layers"])
    )
    notes = noted_interaction(module)
    maps = [case[f"in.{i}"] for i in range(len(config["channels"]))]
    with torch.no_grad():
        outputs = module(maps)
        notes["pool"] = module.pooled(maps)
    for name in [n.removeprefix("mid.") for n in case.tensors if n.startswith("mid.")]:
        case.check(f"mid.{name}", notes[name])
    for i, output in enumerate(outputs):
        case.check(f"out.{i}", output)


def noted_interaction(module: CrossScaleInteraction) -> dict[str, Any]:
    """Will hold the steps of the module, by the names of the fixtures."""
    notes: dict[str, Any] = {}
    layer = module.block[0]
    recorded(module.down_channel, notes, "down")
    recorded(module.up_channel, notes, "up")
    for name in ("csa1", "intra_ff", "csa2", "ff"):
        recorded(layer.get_submodule(name), notes, name)
    recorded(layer.csa1.m.attention, notes, "csa1.attention")
    recorded(layer.csa1.m.attention.parallel_conv, notes, "csa1.parallel_conv")
    return notes


def check_backbone(case: Fixture) -> None:
    config = case.config
    model = case.load(
        MultiModalSwin(
            embed_dim=config["embed_dim"],
            depths=config["depths"],
            num_heads=config["num_heads"],
            window_size=config["window"],
            words_width=config["lang_dim"],
            fusion_heads=config["mha"],
            grid=config["grid"],
        )
    )
    notes: dict[str, Any] = {}
    recorded(model.patch_embed, notes, "patch_embed")
    interaction = noted_interaction(model.cim)
    for i, stage in enumerate(model.layers):
        for j, block in enumerate(stage.blocks):
            recorded(block, notes, f"stage{i}.block{j}")
        recorded(stage.fusion, notes, f"stage{i}.pwam")
        recorded(stage.fusion.image_lang_att, notes, f"stage{i}.pwam_lang")
        recorded(model.get_submodule(f"norm{i}"), notes, f"stage{i}.normed")
        if stage.downsample is not None:
            recorded(stage.downsample, notes, f"stage{i}.to_next")
    words, mask = case["in.lang"].transpose(1, 2), case["in.lang_mask"]
    with torch.no_grad():
        maps = model(case["in.image"], words, mask)
        for i, stage in enumerate(model.layers):  # the last stage's are in no output
            x, fused = notes[f"stage{i}.block{len(stage.blocks) - 1}"], notes[f"stage{i}.pwam"]
            seen = stage.visual_residual(x)
            notes[f"stage{i}.visual_residual"] = seen
            notes[f"stage{i}.res_gate"] = stage.res_gate(fused)
            notes[f"stage{i}.visual_gate"] = stage.visual_gate(seen)
            passed = x + stage.res_gate(fused) * fused + stage.visual_gate(seen) * seen
            notes.setdefault(f"stage{i}.to_next", passed)
        normed = [notes[f"stage{i}.normed"].permute(0, 3, 1, 2) for i in range(len(maps))]
        interaction["pool"] = model.cim.pooled(normed)
    notes |= {f"cim.{k}": v for k, v in interaction.items()}
    for name in [n.removeprefix("mid.") for n in case.tensors if n.startswith("mid.")]:
        case.check(f"mid.{name}", as_recorded(notes[name], case.tensors[f"mid.{name}"]))
    for i, got in enumerate(maps, start=1):
        case.check(f"out.c{i}", got)


def as_recorded(got: Tensor, want: Tensor) -> Tensor:
    """Our maps ``(B, H, W, C)`` in the order of the record: tokens, or channels first."""
    if got.shape == want.shape:
        return got
    if want.ndim == 3:
        tokens = got.flatten(1, 2)
        return tokens if tokens.shape == want.shape else tokens.transpose(1, 2)
    return got.permute(0, 3, 1, 2)


def check_decoder(case: Fixture) -> None:
    decoder = case.load(RotatedDecoder(case.config["c4_dims"]))
    maps = [case[f"in.c{i}"] for i in (1, 2, 3, 4)]
    with torch.no_grad():
        case.check("out.logits_quarter", decoder(maps))  # folded
    notes: dict[str, Any] = {}
    for level in (4, 3, 2):
        recorded(decoder.get_submodule(f"conv1_{level}"), notes, f"conv1_{level}")
        conv = decoder.get_submodule(f"conv2_{level}")
        recorded(conv, notes, f"conv2_{level}")
        recorded(conv.rounting_func, notes, f"conv2_{level}.routing")
        recorded(decoder.get_submodule(f"bn2_{level}"), notes, f"relu2_{level}")
    logits = decoder(maps).detach()
    for name in [n.removeprefix("mid.") for n in case.tensors if n.startswith("mid.")]:
        if name.startswith("relu"):
            case.check(f"mid.{name}", notes[name].relu())
        elif ".routing." in name:
            routing, _, which = name.rpartition(".")
            case.check(f"mid.{name}", notes[routing][int(which)])
        else:
            case.check(f"mid.{name}", notes[name])
    case.check("out.logits_quarter", logits)
    full = F.interpolate(
        logits, size=case.tensors["out.logits_full"].shape[-2:], mode="bilinear", align_corners=True
    )
    case.check("out.logits_full", full)


def check_e2e(case: Fixture) -> None:
    config = case.config
    model = case.load(
        RemoteSAM(
            embed_dim=config["embed_dim"],
            depths=config["depths"],
            num_heads=config["num_heads"],
            window_size=config["window"],
            fusion_heads=config["mha"],
            grid=config["grid"],
            bert=config["bert"],
        )
    )
    notes: dict[str, Any] = {}
    recorded(model.text_encoder.embeddings, notes, "bert_embeddings")
    recorded(model.classifier, notes, "logits_quarter")
    for i in range(len(model.backbone.layers)):
        recorded(model.backbone.get_submodule(f"norm{i}"), notes, f"stage{i}.normed")
    recorded(model.backbone.cim, notes, "features")
    image, ids, mask = case["in.image"], case["in.input_ids"], case["in.attention_mask"]
    logits = model(image, ids, mask)
    losses = referring_losses(
        logits,
        case["in.target"].long(),
        dice_weight=config["loss"]["dice_weight"],
        object_weight=config["loss"]["ce_weight"][1],
    )
    loss = sum(losses.values())
    assert isinstance(loss, Tensor)
    loss.backward()
    case.check("out.logits", logits)
    case.check("out.loss", loss)
    case.check("mid.bert_last_hidden", model.encode_text(ids, mask))
    for name in [n.removeprefix("mid.") for n in case.tensors if n.startswith("mid.")]:
        if name.startswith("features."):
            case.check(f"mid.{name}", notes["features"][int(name.split(".")[1])])
        elif name != "bert_last_hidden":
            case.check(f"mid.{name}", as_recorded(notes[name], case.tensors[f"mid.{name}"]))
    parameters = dict(model.named_parameters())
    for name, want in case.group("grad.").items():
        grad = parameters[name].grad
        assert grad is not None
        worst = float((grad - want).abs().max() / want.abs().max())
        assert worst <= case.manifest["tolerance"]["grad_rel_to_max"], (name, worst)
    without = {name for name, p in parameters.items() if p.grad is None}
    assert without == set(case.manifest["parameters_without_gradient"])


def check_losses(case: Fixture) -> None:
    tolerance, config = case.manifest["tolerance"], case.config
    for expected in case.manifest["expected"]:
        number = expected["case"]
        logits = case[f"in.{number}.logits"].requires_grad_()
        target = case[f"in.{number}.target"].long()
        losses = referring_losses(logits, target)
        total = sum(losses.values())
        assert isinstance(total, Tensor)
        got = {
            "ce": cross_entropy(logits, target, config["ce_weight"][1]),
            "dice_sum": dice(logits, target),
            "total": total.detach(),
            "dice_mean": dice(logits, target, "mean"),
            "dice_square_in_union_sum": dice(logits, target, squared=True),
        }
        for name, value in got.items():
            assert float(value.detach()) == pytest.approx(
                expected[name], abs=tolerance["atol"], rel=tolerance["rtol"]
            ), (number, name)
        total.backward()
        assert logits.grad is not None
        case.check(f"out.{number}.grad", logits.grad)


def check_full_model_manifest(case: Fixture) -> None:
    manifest = case.manifest
    with torch.device("meta"):
        model = remotesam()
    own = {
        name: {"shape": list(v.shape), "dtype": str(v.dtype).removeprefix("torch.")}
        for name, v in model.state_dict().items()
    }
    assert own == manifest["entries"]
    assert len(own) == manifest["total_entries"]
    assert sum(p.numel() for p in model.parameters()) == manifest["total_parameters"]
    assert set(remap_official_keys({f"module.{name}": torch.empty(0) for name in own})) == set(own)

    expected = manifest["optimizer_groups"]
    schedule = manifest["lr_schedule"]
    optimisation = RemoteSAMAdamW(lr=schedule["base"])(model, schedule["total_steps"])
    groups = {group["name"]: group for group in optimisation.optimizer.param_groups}
    assert set(groups) == set(expected) - {"not_in_optimizer"}
    for name, group in groups.items():
        assert group["weight_decay"] == expected[name]["weight_decay"]
        assert len(group["params"]) == expected[name]["tensors"]
        assert sum(p.numel() for p in group["params"]) == expected[name]["params"]
    left = sum(1 for _ in model.parameters()) - sum(len(g["params"]) for g in groups.values())
    assert left == expected["not_in_optimizer"]["tensors"]
    for point in schedule["values"]:
        got = schedule["base"] * optimisation.factor(point["step"])
        assert got == pytest.approx(point["lr"], rel=1e-9, abs=1e-15)


def check_postproc(case: Fixture) -> None:
    for scene in case.manifest["scenes"]:
        check_scene(case, scene)
    for item in case.manifest["direct_captions"]:
        check_captions([item], item["boxes"], *item["shape_hw"])
    for item in case.manifest["direct_m2b"]:
        check_boxes_of_masks(item)
    for pair in case.manifest["box_containment"]:
        assert inside_upright(np.array(pair["box1"]), np.array(pair["box2"])) == pair["inside"]
    for item in case.manifest["epoc_routine"]:
        check_boundary_routine(case, item)
    for item in case.manifest["crop_boxes"]:
        width, height = item["im_size_wh"]
        boxes = crop_boxes(height, width, 2 ** item["n_layers"], item["overlap"])
        assert boxes == [tuple(box) for box in item["boxes"]]
    for item in case.manifest["boundary_zero_padding"]:
        tapered = np.ones(item["shape"], dtype=np.float32) * border_taper(*item["shape"], item["p"])
        np.testing.assert_allclose(tapered, np.array(item["output"]), atol=1e-6)


def check_scene(case: Fixture, scene: dict[str, Any]) -> None:
    """One scene with the network's logits given: every wrapper's answer."""
    size, classes, prefix = tuple(scene["image_hw"]), scene["classes"], f"scene{scene['scene']}"
    assert [PROMPT.format(name) for name in classes] == scene["prompts_semantic"]
    assert scene["prompts_referring"] == [scene["sentence"]]
    small = torch.stack([case[name] for name in scene["logit_tensors"]])
    margins = small[:, 1] - small[:, 0]
    masks, probabilities = as_maps(margins, size)
    for i, name in enumerate(classes):
        np.testing.assert_array_equal(masks[i], case.array(f"{prefix}.sem_mask.{i}"))
        assert int(masks[i].sum()) == scene["sem_mask_sum"][name]
        total = float(probabilities[i].sum(dtype=np.float64))
        assert total == pytest.approx(scene["sem_prob_sum"][name], rel=1e-5)
    named = {name: (masks[i], probabilities[i]) for i, name in enumerate(classes)}

    params = scene["params"]
    whole = margins.sigmoid().numpy()
    labels = {n: presence(whole[i], params["MLC_balance_factor"]) for i, n in enumerate(classes)}
    assert labels == pytest.approx(scene["mlc"]["scores"], abs=1e-5)
    assert [name for name, score in labels.items() if score > 0.5] == scene["mlc"]["labels"]
    single = {n: presence(whole[i], params["MCC_balance_factor"]) for i, n in enumerate(classes)}
    assert single == pytest.approx(scene["mcc"]["scores"], abs=1e-5)
    assert ChosenClass(tuple(single), tuple(single.values())).chosen == scene["mcc"]["label"]

    edges = case.array(scene["contour_tensor"]) > params["EPOC_threshold"]
    for which, boundary in (("no_epoc", None), ("epoc", edges)):
        found = {name: detect(*maps, boundary) for name, maps in named.items()}
        for name, want in scene[f"detection_{which}"].items():
            same_boxes(found[name], want or [])  # rounding orders boxes of equal score
            assert bool((np.diff(found[name][:, 4]) <= 0).all())
        assert {n: len(boxes) for n, boxes in found.items()} == scene[f"counting_{which}"]
        if f"captions_{which}" in scene:
            check_captions(scene[f"captions_{which}"], found, *size)

    for name, want in scene["m2b_no_epoc"].items():
        same_boxes(mask_to_boxes(*named[name]), want["hbb"])
        same_boxes(mask_to_boxes(*named[name], oriented=True), want["obb"])
        same_boxes(mask_to_boxes(*named[name], drop_inner=False), want["hbb_keep_inner"])
    for name, by_score in scene["m2b_conf"].items():
        for score, want in by_score.items():
            same_boxes(mask_to_boxes(*named[name], min_score=float(score)), want)
    for name, by_share in scene["m2b_epoc"].items():
        for share, want in by_share.items():
            least = float(share.removeprefix("area"))
            same_boxes(mask_to_boxes(*named[name], edges, min_share=least), want["hbb"])
            turned = mask_to_boxes(*named[name], edges, min_share=least, oriented=True)
            same_boxes(turned, want["obb"])

    logits = case[scene["ref_logit_tensor"]]
    (mask,), (probability,) = as_maps((logits[1] - logits[0])[None], size)
    np.testing.assert_array_equal(mask, case.array(f"{prefix}.ref_mask"))
    assert enclosing(mask_to_boxes(mask, probability)) == scene["visual_grounding"]


def check_captions(
    items: list[dict[str, Any]], boxes: dict[str, Any], height: int, width: int
) -> None:
    """With the recorded picks replayed, and with Python's generator at the recorded seed."""
    for item in items:
        picks = iter(item["template_indices"])

        def replayed(count: int, picks: Iterator[int] = picks) -> int:
            return next(picks)

        for choose in (replayed, chooser(random.Random(item["python_random_seed"]))):
            text = caption(
                boxes, height, width, item["region_split"], choose, official_when_empty=True
            )
            assert text == item["caption"]


def check_boxes_of_masks(item: dict[str, Any]) -> None:
    mask, probabilities = np.array(item["mask"], np.uint8), np.array(item["prob"], np.float32)
    edges = None
    if item["new_mask"] is not None:
        edges = np.array(item["new_mask"], np.uint8) == 0
    renamed = {"area_threshold": "min_share", "conf_threshold": "min_score"}
    arguments = {renamed[name]: value for name, value in item["args"].items()}
    same_boxes(mask_to_boxes(mask, probabilities, edges, **arguments), item["hbb"])
    turned = mask_to_boxes(mask, probabilities, edges, oriented=True, **arguments)
    same_boxes(turned, item["obb"])
    every = mask_to_boxes(mask, probabilities, edges, drop_inner=False, **arguments)
    same_boxes(every, item["hbb_keep_inner"])


def same_boxes(got: Any, want: list[list[float]]) -> None:
    """Equal as sets: upright boxes exactly, the corners of oriented ones within a pixel."""
    assert len(got) == len(want)
    left = [list(box) for box in got]
    for box in want:
        near = next((other for other in left if same_box(other, box)), None)
        assert near is not None, (box, left)
        left.remove(near)


def same_box(got: list[float], want: list[float]) -> bool:
    if abs(got[-1] - want[-1]) > 1e-4:
        return False
    if len(want) == 5:
        return [float(v) for v in got[:4]] == [float(v) for v in want[:4]]
    corners = np.array(got[:8]).reshape(4, 2)
    return all(np.abs(corners - p).max(1).min() <= 1 for p in np.array(want[:8]).reshape(4, 2))


def check_boundary_routine(case: Fixture, item: dict[str, Any]) -> None:
    """The edge model is replaced by the function that the manifest describes."""
    side = item["processor_size"]

    def fake(crop: Any) -> Any:
        small = Image.fromarray(crop).resize((side, side), Image.Resampling.BILINEAR)
        grey = torch.from_numpy(np.asarray(small).astype(np.float32) / 255).mean(-1)
        return (6 * F.avg_pool2d(grey[None], 4) - 3)[0]

    got = boundary_map(
        fake, case.array(item["image"]), layers=item["pyramid_layers"], overlap=item["overlap"]
    )
    np.testing.assert_allclose(got, case.array(item["output"]), atol=1e-5)


def check_metrics(case: Fixture) -> None:
    manifest = case.manifest
    within = manifest["tolerance"]["default_abs"]
    check_referring(case, manifest["referring"], within)
    check_semantic(case, manifest["semantic"], within)
    check_grounding(manifest["visual_grounding"], within)
    check_multi_label(manifest["multi_label"], within)
    check_multi_class(manifest["multi_class"], within)
    check_detection(manifest["detection"], within)
    check_counting(manifest["counting"], within)
    check_cider(manifest["cider"], within)
    check_tokens(manifest["tokenize"])


def check_referring(case: Fixture, want: dict[str, Any], within: float) -> None:
    metrics, sane = ReferringMetrics("official"), ReferringMetrics()
    for item in want["per_item"]:
        prediction = case[f"ref.pred.{item['sample']}.{item['sentence']}"]
        for each in (metrics, sane):
            each.update([prediction], {"mask": case[f"ref.gt.{item['sample']}"][None]})
        answer = metrics.answers[-1]
        assert (answer.intersection, answer.union) == (item["I"], item["U"])
    figures = metrics.compute()
    assert 100 * figures["mIoU"] == pytest.approx(want["mIoU"], abs=within)
    assert 100 * figures["oIoU"] == pytest.approx(want["oIoU"], abs=within)
    for threshold, value in want["precision"].items():
        assert 100 * figures[f"Pr@{threshold}"] == pytest.approx(value, abs=within)
    empty = sum(not answer.target for answer in metrics.answers)
    assert sane.compute()["sentences"] == len(metrics.answers) - empty


def check_semantic(case: Fixture, want: dict[str, Any], within: float) -> None:
    palette = {tuple(colour): i for i, colour in enumerate(want["palette"].values(), start=1)}
    classes = ["background", *want["palette"]]
    metrics = SegmentationMetrics(classes, mean_over="all")
    for image in want["images"]:
        colours = case.array(image["label"])
        truth = np.zeros(colours.shape[:2], dtype=np.int64)
        for colour, index in palette.items():
            truth[(colours == colour).all(-1)] = index
        merged = merge_masks([case.array(name) for name in image["binary"]])
        metrics.update([torch.from_numpy(merged)], {"mask": torch.from_numpy(truth)[None]})
    figures = metrics.compute()
    assert figures["confusion"] == want["hist"]
    rows = list(figures["per_class"].values())
    for name, theirs in (("IoU", "per_class_iou"), ("recall", "per_class_acc")):
        assert [row[name] or 0 for row in rows] == pytest.approx(want[theirs], abs=within)
    assert 100 * figures["mIoU"] == pytest.approx(want["mIoU"], abs=within)
    assert 100 * figures["mACC"] == pytest.approx(want["mPA"], abs=within)


def check_grounding(want: dict[str, Any], within: float) -> None:
    boxes = {"boxes": [item["gt"] for item in want["items"]]}
    found = [item["pred"] for item in want["items"]]
    for protocol, name in (("swath", "precision"), ("official", "precision_official_stale_bug")):
        metrics = GroundingMetrics(protocol)  # type: ignore[arg-type]
        metrics.update(found, boxes)
        figures = metrics.compute()
        assert 100 * figures["mIoU"] == pytest.approx(want["mean_iou"], abs=within)
        for threshold, value in want[name].items():
            assert 100 * figures[f"Pr@{threshold}"] == pytest.approx(value, abs=within)
    overlaps = [overlap or 0.0 for overlap in metrics.overlaps]
    assert overlaps == pytest.approx([item["iou"] for item in want["items"]], abs=within)


def check_multi_label(want: dict[str, Any], within: float) -> None:
    names = [f"c{i}" for i in range(len(want["true"][0]))]
    decided, scored = MultiLabelMetrics(names), MultiLabelMetrics(names)
    decided.update(want["pred"], {"labels": want["true"]})
    scored.update(want["prob"], {"labels": want["true"]})
    figures = decided.compute()
    table = list(figures["per_class"].values())
    assert figures["accuracy"] == pytest.approx(want["accuracy"], abs=within)
    per_class = [row["accuracy"] for row in table]
    assert per_class == pytest.approx(want["accuracy_per_class"], abs=within)
    check_rates(figures, table, want, within)
    assert figures["IoU"] == pytest.approx(want["iou"]["IOU"], abs=within)
    assert figures["IoU_macro"] == pytest.approx(want["iou"]["IOU mean"], abs=within)
    assert [r["IoU"] for r in table] == pytest.approx(want["iou"]["IOU per Class"], abs=within)
    judged = scored.compute()
    ap = [row["AP"] for row in judged["per_class"].values()]
    assert judged["mAP"] == pytest.approx(float(np.nanmean(ap)), abs=within)
    mean = float(np.nan_to_num(ap).mean())  # officially a class that no image shows has 0
    assert mean == pytest.approx(want["mAP_macro"], abs=within)


def check_rates(
    figures: dict[str, Any], table: list[dict[str, Any]], want: dict[str, Any], within: float
) -> None:
    for name, theirs in (("precision", "Precision"), ("recall", "Recall"), ("F1", "F1_score")):
        group = want[name.lower()]
        assert figures[name] == pytest.approx(group[f"{theirs} Micro"], abs=within)
        assert figures[f"{name}_macro"] == pytest.approx(group[f"{theirs} Macro"], abs=within)
        rows = [row[name] for row in table]
        assert rows == pytest.approx(group[f"{theirs} per Class"], abs=within)
        images = [row["images"] for row in table]
        weighted = sum(r * n for r, n in zip(rows, images, strict=True)) / sum(images)
        assert weighted == pytest.approx(group[f"{theirs} Weighted"], abs=within)


def check_multi_class(want: dict[str, Any], within: float) -> None:
    names = [f"c{i}" for i in range(len(want["prob"][0]))]
    metrics = SegmentationMetrics(names, mean_over="all")  # an image is a pixel
    guesses = torch.tensor(want["prob"]).argmax(1)
    metrics.update([guesses[None]], {"mask": torch.tensor(want["true"])[None, None]})
    figures = metrics.compute()
    rows = figures["per_class"].values()  # officially what is undefined is 0
    table = [{k: v or 0 for k, v in row.items()} | {"images": row["pixels"]} for row in rows]
    assert figures["OA"] == pytest.approx(want["accuracy"], abs=within)
    assert figures["kappa"] == pytest.approx(want["kappa"], abs=within)
    assert [row["IoU"] for row in table] == pytest.approx(want["iou"]["IOU"], abs=within)
    assert figures["mIoU"] == pytest.approx(want["iou"]["mIOU"], abs=within)
    same = {"precision": figures["OA"], "recall": figures["OA"], "F1": figures["OA"]}
    macro = {"precision": "mPrecision", "recall": "mACC", "F1": "mF1"}
    same |= {f"{name}_macro": figures[key] for name, key in macro.items()}
    check_rates(same, table, want, within)


def check_detection(want: dict[str, Any], within: float) -> None:
    for category, stats in want["stats_per_category"].items():
        named = dict(zip(want["stats_order"], stats, strict=True))
        figures = {
            limit: coco_figures(want["gt"], want["detections"], int(category), limit)
            for limit in (1, 10, 100)
        }
        ours = {
            "AP": figures[100]["mAP"],
            "AP50": figures[100]["AP50"],
            "AP75": figures[100]["AP75"],
            "APs": figures[100]["AP_small"],
            "APm": figures[100]["AP_medium"],
            "APl": figures[100]["AP_large"],
            **{f"AR{limit}": figures[limit]["AR"] for limit in (1, 10, 100)},
        }
        for name, value in ours.items():
            value = -1.0 if value is None or np.isnan(value) else value
            assert value == pytest.approx(named[name], abs=within), (category, name)


def coco_figures(
    truth: dict[str, Any], found: list[dict[str, Any]], category: int, limit: int
) -> dict[str, Any]:
    """Figures of one category by core's COCO protocol."""
    metrics = DetectionMetrics(["object"], protocol="coco", max_detections=limit)
    for image in truth["images"]:
        objects = [
            a for a in truth["annotations"]
            if a["image_id"] == image["id"] and a["category_id"] == category
        ]  # fmt: skip
        guesses = [
            d for d in found if d["image_id"] == image["id"] and d["category_id"] == category
        ]
        metrics.update(*coco_batch(objects, guesses))
    return dict(metrics.compute())


def coco_batch(objects: list[Any], guesses: list[Any]) -> tuple[list[Detections], dict[str, Any]]:
    def corners(rows: list[Any]) -> Tensor:
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4)
        return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)

    scores = torch.tensor([row["score"] for row in guesses], dtype=torch.float64)
    labels = torch.zeros(len(guesses), dtype=torch.int64)
    truth = {
        "boxes": [corners(objects)],
        "labels": [torch.zeros(len(objects), dtype=torch.int64)],
        "areas": [torch.tensor([row["area"] for row in objects], dtype=torch.float64)],
    }
    return [Detections(corners(guesses), scores, labels)], truth


def check_counting(want: dict[str, Any], within: float) -> None:
    metrics = CountingMetrics()
    for item in want["items"]:
        boxes = np.array(item["boxes"], dtype=np.float64).reshape(-1, 5)
        kept = larger_than(boxes, PRIOR_SHARE * item["prior_area"])
        assert len(kept) == item["expected_count"]
        metrics.update([len(kept)], {"count": [item["gt"]]})
    assert 100 * metrics.compute()["accuracy"] == pytest.approx(want["accuracy"], abs=within)


def check_cider(want: dict[str, Any], within: float) -> None:
    metrics = CaptionMetrics()
    names = list(want["references"])
    captions = [want["hypotheses"][name][0] for name in names]
    metrics.update(captions, {"references": [want["references"][name] for name in names]})
    scores = dict(zip(names, metrics.scores(), strict=True))
    assert scores == pytest.approx(want["per_item"], abs=within)
    assert metrics.compute()["CIDEr"] == pytest.approx(want["score"], abs=within)


def check_tokens(want: dict[str, Any]) -> None:
    tokenizer = WordPieces(want["vocab"], want["max_tokens"])
    for item in want["items"]:
        assert tokenizer.pieces(item["text"]) == item["untruncated_ids"]
        ids, mask = tokenizer([item["text"]])
        assert ids[0].tolist() == item["input_ids"]
        assert mask[0].tolist() == item["attention_mask"]


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "arc": check_arc,
    "arc_rotmat": check_arc_rotmat,
    "backbone": check_backbone,
    "cim_grid": check_cim,
    "decoder": check_decoder,
    "e2e": check_e2e,
    "full_model_manifest": check_full_model_manifest,
    "losses": check_losses,
    "metrics": check_metrics,
    "postproc": check_postproc,
}


@pytest.mark.parametrize("name", found())
def test_agrees_with_the_official_implementation(name: str) -> None:
    case = Fixture(found()[name])
    CHECKS[kind_of(name)](case)
    assert not case.unread, f"nobody reads {sorted(case.unread)}"
    print(f"{name}: {case.largest:.1e}")


def test_every_claimed_kind_has_a_check() -> None:
    assert sorted(CHECKS) == sorted(CLAIMED)
