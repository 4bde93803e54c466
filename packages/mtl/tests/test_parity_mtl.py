"""Agreement with tensors recorded from the official RSCoTr implementation.

Every fixture of a kind that this package claims (``parity_claims.json``) is checked, wherever it
comes from: the shared folder, or the small copies in ``data/parity``. A fixture's kind is how its
name in ``manifest.json`` begins; the manifest gives configuration and tolerances; a tensor that no
check reads is a failure.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from swath.core.backbones.swin import Swin
from swath.core.checkpoint.official import load_strict
from swath.core.metrics.classification import ClassificationMetrics
from swath.core.metrics.detection import DetectionMetrics
from swath.core.structures import Detections
from swath.kernels import ms_deform_attn
from swath.mtl.models.dino import DINOHead, Noise, Objects, Scene
from swath.mtl.models.encoder import (
    ChannelMapper,
    DeformableEncoder,
    Features,
    coarse_first_tokens,
    fine_first_tokens,
    valid_ratios,
)
from swath.mtl.models.heads import Head, MultiLevelSceneClassifier, SceneClassifier
from swath.mtl.models.layers import MSDeformAttention, resized
from swath.mtl.models.mask_decoder import UNLABELLED, MaskDecoder
from swath.mtl.models.rscotr import RSCoTr, official_keys, remap_official_keys, rscotr
from swath.mtl.multi_task import weighted_score
from swath.mtl.optim import CoTrainingAdamW
from swath.mtl.puzzle import six_to_five, stitch
from swath.mtl.strategies import (
    OFFICIAL_WASTE,
    Constant,
    Random,
    RepeatedSequence,
    RoundRobin,
    SetSize,
    SizeProportional,
    Strategy,
    WeightedRandom,
)
from swath.mtl.tasks import MaskMetrics

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SWATH_PARITY_DIR", HERE.parents[3] / "shared" / "parity"))
CLAIMED: list[str] = json.loads((HERE / "parity_claims.json").read_text())["mtl"]["kinds"]


class Folder:
    """A folder of fixtures with their common manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fixtures: dict[str, Any] = json.loads((path / "manifest.json").read_text())["fixtures"]

    def json(self, name: str) -> Any:
        return json.loads((self.path / self.fixtures[name]["file"]).read_text())

    def like(self, kind: str) -> str:
        """The fixture of another kind that goes with one."""
        return next(name for name in self.fixtures if kind_of(name) == kind)


class Fixture:
    """One recorded case: its manifest, and tensors that remember whether they were read."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        self.manifest: dict[str, Any] = folder.fixtures[name]
        self.config: Any = self.manifest.get("config")
        file = folder.path / self.manifest["file"]
        self.tensors = load_file(file) if file.suffix == ".safetensors" else {}
        self.unread = set(self.tensors)
        self.largest = 0.0

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix, by the rest of their names."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def state(self) -> dict[str, Tensor]:
        """The weights that the fixture names."""
        return Fixture(self.folder, self.manifest["state"]).group("")

    def model(self, **det: Any) -> RSCoTr:
        """The whole model that the fixture names, in evaluation mode."""
        model = build(self.folder.fixtures[self.manifest["state"]]["config"], **det)
        load_official(model, self.state())
        return model.eval()

    def check(self, name: str, got: Tensor, atol: float | None = None) -> None:
        """Compare with the recorded tensor, by the manifest's tolerance.

        Masks' logits reach hundreds, where the recorded ones are 2e-4 from float64: hence rtol.
        """
        want = self[name]
        atol = self.manifest["atol"] if atol is None else atol
        if want.dtype.is_floating_point:
            finite = want.isfinite()
            assert torch.equal(finite, got.isfinite()), f"{name}: infinite elsewhere"
            difference = (got.detach() - want)[finite].abs()
            self.largest = max(self.largest, float(difference.max()) if difference.numel() else 0.0)
        torch.testing.assert_close(
            got.detach(), want, rtol=1e-5, atol=atol, msg=lambda m: f"{name}: {m}"
        )

    def check_gradients(
        self, model: RSCoTr, norms: Mapping[str, float], prefix: str = "grad."
    ) -> None:
        """Compare the norm of every gradient, some whole gradients, and where there are none."""
        rtol = self.manifest["grad_rtol"]
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        official = official_keys({n: g for n, g in gradients.items()})
        without = set(official_keys(dict(model.named_parameters()))) - {
            name for name, g in official.items() if bool(g.any())
        }
        assert set(self.manifest["params_without_grad"]) <= without
        for name, norm in norms.items():
            got = float(official[name].norm()) if name in official else 0.0
            assert got == pytest.approx(norm, rel=rtol, abs=rtol * 1e-2), name
        for name, want in self.group(prefix).items():
            scale = float(want.abs().max())
            torch.testing.assert_close(official[name], want, rtol=0, atol=rtol * scale)


def kind_of(name: str) -> str | None:
    """The longest of the claimed kinds that a name begins with."""
    return max((k for k in CLAIMED if name.startswith(k)), key=len, default=None)


def found() -> dict[str, tuple[Folder, str]]:
    folders = [Folder(p) for p in (HERE / "data/parity", SHARED / "mtl") if p.is_dir()]
    return {name: (folder, name) for folder in folders for name in folder.fixtures}


def sizes_of(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    return [(h, w) for h, w, *_ in config["img_shapes"]]


def encoder_order(maps: Tensor) -> Tensor:
    """(B, S, C) to the recorded (S, B, C)."""
    return maps.transpose(0, 1)


# --- our model from the official config ---------------------------------------------------------


def build(config: dict[str, Any], **det: Any) -> RSCoTr:
    """The official config of a whole model as ours; ``det`` overrides DINO's arguments."""
    backbone = config["backbone"]
    swin = Swin(
        backbone["embed_dims"],
        backbone["depths"],
        backbone["num_heads"],
        backbone["window_size"],
        backbone["mlp_ratio"],
        qkv_bias=backbone["qkv_bias"],
        drop_path_rate=backbone["drop_path_rate"],
        out_indices=backbone["out_indices"],
    )
    neck, encoder = config["neck"], config["shared_encoder"]
    layer = encoder["transformerlayers"]
    attention = layer["attn_cfgs"]
    heads = {
        ours: make(config)
        for ours, theirs, make in (
            ("cls", "cls_head", _classifier),
            ("det", "bbox_head", lambda c: _dino(c, **det)),
            ("seg", "seg_head", _mask_decoder),
        )
        if theirs in config
    }
    return RSCoTr(
        swin,
        heads,
        dim=neck["out_channels"],
        encoder_depth=encoder["num_layers"],
        encoder_heads=attention.get("num_heads", 8),
        encoder_hidden=layer["ffn_cfgs"]["feedforward_channels"],
        points=attention.get("num_points", 4),
        norm_groups=neck["norm_cfg"]["num_groups"],
    )


def _classifier(config: dict[str, Any]) -> Head:
    head = config["cls_head"]
    smoothing = head["loss"]["label_smooth_val"]
    if head["type"] == "MlvlClsHead":
        return MultiLevelSceneClassifier(
            head["num_classes"], head["scheme"], head["in_channels"], label_smoothing=smoothing
        )
    return SceneClassifier(head["num_classes"], head["in_channels"], smoothing)


def _dino(config: dict[str, Any], **overrides: Any) -> Head:
    head = config["bbox_head"]
    decoder = head["transformer"]["decoder"]
    layer = decoder["transformerlayers"]
    self_attention, cross_attention = layer["attn_cfgs"]
    arguments = {
        "num_queries": head["num_query"],
        "dim": self_attention["embed_dims"],
        "depth": decoder["num_layers"],
        "heads": self_attention["num_heads"],
        "levels": head["num_feature_levels"],
        "points": cross_attention.get("num_points", 4),
        "hidden": layer["ffn_cfgs"]["feedforward_channels"],
        "max_per_image": config["test_cfg"]["det"]["max_per_img"],
        "dn_queries": head["dn_cfg"]["group_cfg"]["num_dn_queries"],
        "label_noise": head["dn_cfg"]["noise_scale"]["label"],
        "box_noise": head["dn_cfg"]["noise_scale"]["box"],
    }
    return DINOHead(head["num_classes"], **(arguments | overrides))


def _mask_decoder(config: dict[str, Any]) -> Head:
    head = config["seg_head"]
    decoder = head["transformer_decoder"]
    layer = decoder["transformerlayers"]
    return MaskDecoder(
        head["num_classes"],
        head["num_queries"],
        head["scheme"],
        dim=head["feat_channels"],
        depth=decoder["num_layers"],
        heads=layer["attn_cfgs"]["num_heads"],
        hidden=layer["ffn_cfgs"]["feedforward_channels"],
        levels=head["num_transformer_feat_level"],
    )


def load_official(model: RSCoTr, state: dict[str, Tensor]) -> None:
    """Load a recorded state strictly; integer buffers aren't recorded."""
    ours = remap_official_keys({key: value.float() for key, value in state.items()})
    buffers = {k: v for k, v in model.state_dict().items() if k.endswith("relative_position_index")}
    load_strict(model, buffers | ours)


# --- layers ---------------------------------------------------------------------------------------


def check_msda(case: Fixture) -> None:
    config = case.config
    layer = MSDeformAttention(
        config["embed_dims"], config["num_heads"], config["num_levels"], config["num_points"]
    )
    load_strict(layer, case.group("state."))
    shapes = [(h, w) for h, w in case["spatial_shapes"].tolist()]
    starts = [0, *np.cumsum([h * w for h, w in shapes])[:-1].tolist()]
    assert case["level_start_index"].tolist() == starts
    query, value, position = (
        case[name].transpose(0, 1) for name in ("query", "value", "query_pos")
    )
    for name, reference, padding in (
        ("out_ref2", "ref2", None),
        ("out_ref4", "ref4", None),
        ("out_ref2_mask", "ref2", case["key_padding_mask"]),
    ):
        out = query + layer(query + position, value, case[reference], shapes, padding)
        case.check(name, encoder_order(out))
    inputs = [
        case[name].requires_grad_() for name in ("core_value", "core_locations", "core_weights")
    ]
    core = ms_deform_attn(inputs[0], shapes, None, inputs[1], inputs[2])
    case.check("core_output", core)
    core.backward(case["core_cotangent"])
    for name, tensor in zip(("value", "locations", "weights"), inputs, strict=True):
        case.check(f"core_grad_{name}", tensor.grad)


def check_encoder(case: Fixture) -> None:
    config, state = case.config, case.state()
    swin, neck, encoder = config["swin"], config["neck"], config["encoder"]
    backbone = Swin(
        swin["embed_dims"], swin["depths"], swin["num_heads"], swin["window"], drop_path_rate=0.0
    )
    model = RSCoTr(
        backbone,
        {},
        dim=neck["out"],
        encoder_depth=encoder["layers"],
        encoder_heads=encoder["heads"],
        encoder_hidden=encoder["ffn"],
        points=encoder["points"],
        norm_groups=neck["gn_groups"],
    ).eval()
    level_encoding = state.pop("pixel_decoder.level_encoding.weight").float()
    load_official(model, state)
    image = case["img"]
    with torch.no_grad():
        features = model.features(image, sizes_of(config))
        for i, stage in enumerate(features.stages):
            case.check(f"backbone_{i}", stage)
        for i, level in enumerate(features.pyramid):
            case.check(f"neck_{i}", level)
        level_embed = case["level_embeds"]
        tokens = fine_first_tokens(features.pyramid, features.padding, level_embed)
        check_tokens(case, tokens)
        case.check("valid_ratios", valid_ratios(features.padding))
        memory = model.encoder.fine_first(features.pyramid, features.padding, level_embed)
        case.check("memory_det_order", encoder_order(memory.tokens))
        for i, level in enumerate(model.encoder.coarse_first(features.pyramid, level_encoding)):
            case.check(f"memory_dense_order_{i}", level)


def check_tokens(case: Fixture, tokens: Any) -> None:
    assert [list(shape) for shape in tokens.shapes] == case["spatial_shapes"].tolist()
    starts = [0, *np.cumsum([h * w for h, w in tokens.shapes])[:-1].tolist()]
    assert case["level_start_index"].tolist() == starts
    assert torch.equal(tokens.padding, case["padding_mask"])
    case.check("reference_points", tokens.reference)
    case.check("query_pos", encoder_order(tokens.position))


def check_state(case: Fixture) -> None:
    """A state on its own: every key has its place, there and back."""
    state = case.group("")
    if isinstance(case.config, dict):
        model = build(case.config)
        load_official(model, state)
        ours = {
            k: v
            for k, v in official_keys(model.state_dict()).items()
            if not k.endswith("relative_position_index")
        }
        assert set(ours) == set(state)
        for name in state:
            case.check(name, ours[name].half(), atol=0.0)
    else:
        back = official_keys(remap_official_keys(state))
        assert set(back) == set(state)
        for name, value in state.items():
            assert torch.equal(back[name], value), name


# --- detection ------------------------------------------------------------------------------------


def metas(case: Fixture) -> dict[str, Any]:
    config = case.config or case.folder.fixtures[case.folder.like("det_eval")]["config"]
    shapes = [meta["img_shape"] for meta in config["img_metas"]]
    return {**config, "img_shapes": shapes}


def check_det_eval(case: Fixture) -> None:
    config = metas(case)
    model = case.model(max_per_image=case.config["max_per_img"])
    head: Any = model.heads["det"]
    with torch.no_grad():
        features = model.features(case["img"], sizes_of(config))
        case.check("neck_3", features.pyramid[3])
        tokens = fine_first_tokens(features.pyramid, features.padding, head.level_embed)
        case.check("enc_query_pos_b0", tokens.position[0])
        assert torch.equal(tokens.padding, case["enc_padding_mask"])
        case.check("enc_reference_points", tokens.reference)
        assert [list(shape) for shape in tokens.shapes] == case["spatial_shapes"].tolist()
        memory = head.memory(features)
        case.check("memory", encoder_order(memory.tokens))
        chosen = head.propose(memory)
        case.check("output_proposals", chosen.proposals)
        case.check("enc_max_logit", chosen.scores)
        assert torch.equal(chosen.tokens, case["topk_indices"])
        case.check("topk_score", chosen.logits)
        case.check("topk_anchor", chosen.anchors.sigmoid())
        content = head.content(chosen)
        case.check("dec_query_in", encoder_order(content))
        case.check("dec_reference_in", chosen.anchors.sigmoid())
        decoded = head.decode(memory, content, chosen.anchors, None)
        case.check("hs", decoded.states.transpose(1, 2))
        case.check("inter_references", decoded.references)
        output = head.predict(decoded)
        case.check("all_cls_scores", output.logits)
        case.check("all_bbox_preds", output.boxes)
        for i, (found_, meta) in enumerate(zip(head(features), config["img_metas"], strict=True)):
            assert torch.equal(found_.labels, case[f"det_labels_{i}"])
            boxes = torch.cat((found_.boxes, found_.scores[:, None]), 1)
            # pixels have the tolerance of normalised boxes
            pixels = case.manifest["atol"] * max(meta["img_shape"])
            case.check(f"det_boxes_{i}", boxes, atol=pixels)
            factor = torch.tensor(meta["scale_factor"])
            rescaled = torch.cat((found_.boxes / factor, found_.scores[:, None]), 1)
            case.check(f"det_boxes_rescaled_{i}", rescaled, atol=2 * pixels)


def objects_of(case: Fixture) -> list[Objects]:
    count = len(metas(case)["img_shapes"])
    return [Objects(case[f"gt_bboxes_{i}"], case[f"gt_labels_{i}"]) for i in range(count)]


def check_det_train(case: Fixture) -> None:
    config, manifest = metas(case), case.manifest
    dn, noise = manifest.get("dn_config"), None
    if dn:
        names = ("rand_label_p", "new_label", "rand_sign01", "rand_part")
        noise = Noise(*(case[name] for name in names))
        model = case.model(
            dn_queries=dn["num_dn_queries"],
            label_noise=dn["label_noise"],
            box_noise=dn["box_noise"],
        )
    else:
        model = case.model(dn_queries=0)
    head: Any = model.heads["det"]
    targets = objects_of(case)
    features = model.features(case["img"], sizes_of(config))
    losses = head.losses(features, targets, noise)
    assert set(losses) == set(manifest["losses"])
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(
            manifest["losses"][name], abs=case.manifest["atol"]
        )
    total = torch.stack(list(losses.values())).sum()
    assert float(total.detach()) == pytest.approx(manifest["total"], rel=manifest["atol"])
    total.backward()
    case.check_gradients(model, manifest["grad_norms"])
    with torch.no_grad():
        output, chosen, queries = head.train_forward(features, targets, noise)
        case.check("all_cls_scores", output.logits)
        case.check("all_bbox_preds", output.boxes)
        case.check("topk_score", chosen.logits)
        case.check("topk_anchor", chosen.anchors.sigmoid())
        pad = 0
        if queries:
            pad = queries.content.shape[1]
            assert pad == manifest["dn_meta"]["pad_size"]
            assert queries.groups == manifest["dn_meta"]["num_dn_group"]
            case.check("dn_label_query", queries.content)
            case.check("dn_bbox_query", queries.reference)
            assert torch.equal(queries.blocked, case["dn_attn_mask"])
        matched = Scene(targets, features.sizes).match(
            output.logits[-1, :, pad:], output.boxes[-1, :, pad:]
        )
        assigned = torch.zeros(output.logits[-1, :, pad:].shape[:2], dtype=torch.int64)
        for i, (query, object_) in enumerate(matched):
            assigned[i, query] = object_ + 1
        assert torch.equal(assigned, case["assigned_gt_inds_last"])


# --- segmentation and classification --------------------------------------------------------------


def check_seg(case: Fixture) -> None:
    model = case.model()
    head: Any = model.heads["seg"]
    image = case["img"]
    features = model.features(image)
    losses = head.losses(features, labels_of(case))
    want = case.manifest["losses"]
    assert float(losses["ce"].detach()) == pytest.approx(want["seg.loss_ce"], abs=3e-4)
    assert float(losses["accuracy"]) * 100 == pytest.approx(want["seg.acc_seg"], abs=0.02)
    losses["ce"].backward()
    case.check_gradients(model, case.manifest["grad_norms"])
    with torch.no_grad():
        tokens = coarse_first_tokens(features.pyramid, head.level_encoding.weight)
        case.check("enc_query_pos_b0", tokens.position[0])
        case.check("enc_reference_points_b0", tokens.reference[0])
        assert [list(shape) for shape in tokens.shapes] == case["spatial_shapes"].tolist()
        memories = head.memories(features)
        for i, memory in enumerate(memories):
            case.check(f"memory_{i}", memory)
        case.check("mask_feature", head.mask_feature(memories[-1]))
        logits = check_layers(case, head, memories)
        case.check("seg_logits_stride8", logits)
        full = resized(logits, image.shape[-2:])
        case.check("seg_prob_full_b0", full[0].softmax(0))
        assert float((full.argmax(1) == case["pred"]).float().mean()) > 0.999


def labels_of(case: Fixture) -> Tensor:
    labels = case["gt_semantic_seg"][:, 0].long()
    return labels.masked_fill(labels == 255, UNLABELLED)


def check_layers(case: Fixture, head: Any, memories: list[Tensor]) -> Tensor:
    predictions = head.decode(memories)
    for i, prediction in enumerate(predictions):
        case.check(f"seg_logits_layer{i}", prediction.logits)
        if f"attn_mask_raw_{i}" in case.tensors:
            recorded = case[f"attn_mask_raw_{i}"]  # some before, some after rows were opened
            assert torch.equal(prediction.blocked, recorded & ~recorded.all(-1, keepdim=True))
    return predictions[-1].logits  # type: ignore[no-any-return]


def features_of(case: Fixture, encoder: DeformableEncoder, levels: int = 4) -> Features:
    """Features that have a recorded pyramid instead of an image."""
    pyramid = [case[f"neck_{i}"] for i in range(levels)]
    size = tuple(8 * side for side in pyramid[0].shape[-2:])
    neck = ChannelMapper([1, 1, 1], 32)
    features = Features([], [size] * len(pyramid[0]), size, neck, encoder)  # type: ignore[arg-type, list-item]
    features.__dict__["pyramid"] = pyramid
    return features


def check_seg_head_scheme(case: Fixture) -> None:
    c = case.config
    model = Headless(
        DeformableEncoder(c["dim"], c["encoder_layers"], c["encoder_heads"], hidden=c["ffn"]),
        MaskDecoder(
            c["num_classes"], c["queries"], c["scheme"], c["dim"], c["layers"], c["heads"], c["ffn"]
        ),
        "seg",
    )
    load_strict(model, remap_official_keys(case.group("state.")))
    head: Any = model.heads["seg"]
    with torch.no_grad():
        memories = head.memories(features_of(case, model.encoder))
        case.check("seg_logits", check_layers(case, head, memories))


def check_cls_mlvl_schemes(case: Fixture) -> None:
    c, state = case.config, case.group("state.")
    encoder_state = {k: v for k, v in state.items() if k.startswith("shared_encoder.")}
    depth = len({key.split(".")[2] for key in encoder_state})
    hidden = encoder_state["shared_encoder.layers.0.ffns.0.layers.0.0.bias"].shape[0]
    points = 4
    weights = encoder_state["shared_encoder.layers.0.attentions.0.attention_weights.bias"].shape[0]
    heads = weights // (len(c["sizes"]) * points)
    schemes = sorted({k.split(".")[0] for k in state if k.startswith("scheme")})
    for name in schemes:
        model = Headless(
            DeformableEncoder(c["dim"], depth, heads, len(c["sizes"]), points, hidden),
            MultiLevelSceneClassifier(
                c["num_classes"], int(name.removeprefix("scheme")), c["dim"], len(c["sizes"])
            ),
            "cls",
        )
        own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        load_strict(model, remap_official_keys(encoder_state | own))
        with torch.no_grad():
            features = features_of(case, model.encoder, len(c["sizes"]))
            case.check(f"logits_{name}", model.heads["cls"](features))
            alone = model.heads["cls"](features.rows(0, 1))
            torch.testing.assert_close(alone, case[f"logits_{name}"][:1], rtol=0, atol=1e-4)


class Headless(nn.Module):
    """An encoder and one head, with the names that they have in the whole model."""

    def __init__(self, encoder: nn.Module, head: nn.Module, name: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: head})


def check_cls_slvl(case: Fixture) -> None:
    model = case.model()
    head: Any = model.heads["cls"]
    want = case.manifest["losses"]
    features = model.features(case["img"])
    case.check("stage4", features.stages[-1])
    logits = head(features)
    case.check("logits", logits)
    case.check("prob", logits.softmax(1))
    loss = head.losses(features, case["gt_label"])["ce"]
    assert float(loss.detach()) == pytest.approx(want["int"], abs=1e-4)
    loss.backward(retain_graph=True)
    gradient = head.fc.weight.grad.clone()
    torch.testing.assert_close(gradient, case["grad_int.cls_head.fc.weight"], rtol=0, atol=2e-4)
    model.zero_grad()
    loss = head.losses(features, case["gt_soft"])["ce"]
    assert float(loss.detach()) == pytest.approx(want["soft"], abs=1e-4)
    loss.backward()
    case.check_gradients(model, case.manifest["grad_norms_soft"], "grad_soft.")


def check_whole_one_image(case: Fixture) -> None:
    model = case.model()
    config = case.config
    with torch.no_grad():
        answer = model(case["img"])
    case.check("cls_prob", answer["cls"].softmax(1), atol=1e-4)
    (height, width), (full_height, full_width) = config["input_hw"], config["ori_hw"]
    factor = torch.tensor([full_width / width, full_height / height] * 2)
    objects = answer["det"][0]
    for name, want in case.group("det_class").items():
        own = objects.labels == int(name)
        torch.testing.assert_close(objects.boxes[own] * factor, want[:, :4], rtol=0, atol=5e-2)
        torch.testing.assert_close(objects.scores[own], want[:, 4], rtol=0, atol=1e-4)
    logits = resized(resized(answer["seg"], (height, width)), (full_height, full_width))
    agreement = (logits.argmax(1)[0] == case["seg_pred"]).float().mean()
    assert float(agreement) >= 0.999


# --- training -------------------------------------------------------------------------------------


def check_interleave(case: Fixture) -> None:
    """Optimiser steps of the three tasks in turn, in both ways of treating idle heads."""
    recipe = case.manifest["optimizer"]
    keys = recipe["paramwise_cfg"]["custom_keys"]
    optimiser = {
        "lr": recipe["lr"],
        "weight_decay": recipe["weight_decay"],
        "lr_factors": {k: v["lr_mult"] for k, v in keys.items() if "lr_mult" in v},
        "no_decay": [k for k, v in keys.items() if v.get("decay_mult") == 0],
    }
    inputs = {
        task: Fixture(case.folder, case.folder.like(kind))
        for task, kind in (("cls", "cls_slvl"), ("det", "det_train"), ("seg", "seg"))
    }
    for mode in case.manifest["modes"]:
        model = case.model(label_noise=0.0, box_noise=0.0)
        before = {n: p.detach().clone() for n, p in official_keys(model.state_dict()).items()}
        piece = CoTrainingAdamW(**optimiser, idle=mode)
        optimizer = piece(model, 1000).optimizer
        for number, (task, want) in enumerate(
            zip(case.manifest["order"], case.manifest["results"][mode]["steps"], strict=True)
        ):
            weight = case.manifest["task_weight"][task]
            terms = losses_of(model, task, inputs[task])
            loss = weight * torch.stack([x for x in terms.values() if x.requires_grad]).sum()
            rtol = 1e-3 if number < 3 else 2e-2
            assert float(loss.detach()) == pytest.approx(want["loss"], rel=rtol), (mode, number)
            logged = [
                v for k, v in want["log_vars"].items() if not k.endswith(("acc_seg", ".loss"))
            ]
            if logged:
                got = [weight * float(x.detach()) for x in terms.values() if x.requires_grad]
                assert sorted(got) == pytest.approx(sorted(logged), rel=rtol), (mode, number)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(
                model.parameters(), case.manifest["grad_clip"]["max_norm"]
            )
            assert float(norm) == pytest.approx(want["grad_norm_before_clip"], rel=10 * rtol)
            optimizer.step()
            optimizer.zero_grad()
        after = official_keys(model.state_dict())
        for name, norm in case.manifest["results"][mode]["param_delta_norm"].items():
            moved = float((after[name] - before[name]).norm())
            # what a softmax doesn't see gets rounding errors for a gradient, and moves by them
            noise = optimiser["lr"] if name in unseen_by_softmax(inputs["seg"]) else 1e-7
            assert moved == pytest.approx(norm, rel=0.05, abs=noise), (mode, name)
        for name, want in case.group(f"final_{mode}.").items():
            lr, _ = piece.rate(next(iter(remap_official_keys({name: want}))))
            torch.testing.assert_close(after[name], want, rtol=0, atol=2 * lr)


def unseen_by_softmax(case: Fixture) -> set[str]:
    """Weights that shift the logits of all queries alike: their true gradient is zero."""
    return {name for name, norm in case.manifest["grad_norms"].items() if 0 < norm < 1e-5}


def losses_of(model: RSCoTr, task: str, case: Fixture) -> dict[str, Tensor]:
    if task == "cls":
        return model.head("cls").losses(model.features(case["img"]), case["gt_label"])
    if task == "seg":
        return model.head("seg").losses(model.features(case["img"]), labels_of(case))
    features = model.features(case["img"], sizes_of(metas(case)))
    return model.head("det").losses(features, objects_of(case))


def check_iteration_strategies(case: Fixture) -> None:
    recorded = case.folder.json(case.name)
    names = recorded["order"]
    sizes = []
    for name in names:
        samples, batch = recorded["dataset_lengths"][name], recorded["batch_sizes"][name]
        sizes.append(SetSize(name, samples, math.ceil(samples / batch)))
    for one in recorded["cases"]:
        strategy = strategy_of(one["strategy"], one["kwargs"])
        ids = list(islice(strategy.draws(sizes, one["seed"]), len(one["ids"])))
        assert ids == one["ids"], one["strategy"]
        if one.get("probabilities"):
            p = strategy.probabilities(sizes)  # type: ignore[attr-defined]
            assert [x / sum(p) for x in p] == pytest.approx(one["probabilities"])
        if not one.get("loader_draws"):
            continue
        drawn = []
        for turn in islice(strategy.turns(sizes, one["seed"]), len(one["loader_draws"])):
            size = recorded["batch_sizes"][names[turn.part]]
            begin = turn.batch * size
            inside = range(begin, min(begin + size, sizes[turn.part].samples))
            drawn.append([names[turn.part], list(inside)])
        assert drawn == one["loader_draws"], one["strategy"]
        if one["stop_iteration_at"] is not None:
            turns = strategy.turns(sizes, one["seed"])
            first_pass = list(takewhile(lambda turn: turn.epoch == 0, turns))
            assert len(first_pass) == one["stop_iteration_at"]
    for name, shares in recorded["distribution_30000_seed123"].items():
        kwargs = next((c["kwargs"] for c in recorded["cases"] if c["strategy"] == name), {})
        ids = list(islice(strategy_of(name, kwargs).draws(sizes, 123), 30000))
        got = np.bincount(ids, minlength=len(names)) / len(ids)
        np.testing.assert_allclose(got, shares, rtol=0, atol=1e-9)


def strategy_of(name: str, kwargs: dict[str, Any]) -> Strategy:
    """Our strategy for an official one's name and arguments."""
    built = name.startswith("built:")
    name = name.removeprefix("built:")
    config = kwargs.get("config", {})
    wasted = OFFICIAL_WASTE if built else 0
    if name.startswith("round_robin"):
        return RoundRobin(config.get("start_idx", 0))
    if name == "constant":
        return Constant(config.get("idx", 0))
    if name == "repeated_sequence":
        return RepeatedSequence(kwargs["sequence"])
    if name == "weighted_random":
        return WeightedRandom(kwargs["p"], wasted)
    if name == "size_proportional":
        return SizeProportional(early_end=True, wasted=wasted)
    assert name == "random"
    return Random(wasted)


# --- figures, puzzles, the full models ------------------------------------------------------------


def check_metrics(case: Fixture) -> None:
    expected = case.manifest["expected"]
    check_detection_figures(case, expected)
    scores, labels = case["cls_scores"], case["cls_labels"]
    metrics = ClassificationMetrics([str(i) for i in range(scores.shape[1])])
    metrics.update(list(scores), {"label": labels})
    figures = metrics.compute()
    assert figures["top1"] * 100 == pytest.approx(expected["cls"]["accuracy_top-1"], abs=1e-3)
    assert figures["top5"] * 100 == pytest.approx(expected["cls"]["accuracy_top-5"], abs=1e-3)
    assert figures["confusion"] == case["cls_confusion"].tolist()
    for name, want in expected.items():
        if name.startswith("seg_"):
            check_segmentation_figures(case, name, want)
    example = expected["best_checkpoint_example"]
    score = weighted_score(example["inputs"], example["weights"])
    assert score == pytest.approx(example["score"])


def check_detection_figures(case: Fixture, expected: dict[str, Any]) -> None:
    columns = expected["det_columns"]
    truth, found = case["det_gt"], case["det_pred"]
    classes = [str(i) for i in range(columns["num_classes"])]

    def judged(**options: Any) -> dict[str, Any]:
        metrics = DetectionMetrics(classes, **options)
        for image in range(columns["num_images"]):
            own, objects = found[found[:, 0] == image], truth[truth[:, 0] == image]
            detections = Detections(own[:, 2:6], own[:, 6], own[:, 1].long())
            batch = {
                "boxes": [objects[:, 2:6]],
                "labels": [objects[:, 1].long()],
                "difficult": [objects[:, 6].bool()],
            }
            metrics.update([detections], batch)
        return metrics.compute()

    ours = judged(protocol="coco", iou_thresholds=[0.5])
    want = expected["coco_iou50_config_of_repo"]
    for name, official in (
        ("mAP", "bbox_mAP"),
        ("AP_medium", "bbox_mAP_m"),
        ("AP_large", "bbox_mAP_l"),
    ):
        assert ours[name] == pytest.approx(want[official], abs=1e-3)
    by_class = [ours["per_class"][name]["AP"] for name in classes]
    assert by_class == pytest.approx(expected["per_class_ap50_maxdets100"], abs=1e-3)
    more = judged(protocol="coco", iou_thresholds=[0.5], max_detections=1000)
    by_class = [more["per_class"][name]["AP"] for name in classes]
    assert by_class == pytest.approx(expected["per_class_ap50_maxdets1000"], abs=1e-3)
    full, want = judged(protocol="coco"), expected["coco_default_50_95"]
    for name, official in (("mAP", "bbox_mAP"), ("AP50", "bbox_mAP_50"), ("AP75", "bbox_mAP_75")):
        assert full[name] == pytest.approx(want[official], abs=1e-3)


def check_segmentation_figures(case: Fixture, name: str, want: dict[str, Any]) -> None:
    classes = [key.removeprefix("IoU.") for key in want if key.startswith("IoU.")]
    raw = case[f"{name}_raw_label"].long()
    metrics = MaskMetrics(classes, len(classes) - 1, ignore_index=255)
    mask = torch.where(raw == 0, 255, raw - 1)
    metrics.update(list(case[f"{name}_pred"].long()), {"mask": mask})
    figures = metrics.compute()["official"]
    for official, value in figures.items():
        assert value == pytest.approx(want[official], abs=1e-3), official
    assert figures["mRecall"] == pytest.approx(want["mAcc"], abs=1e-3)
    titles = {"IoU": "IoU", "F1": "Fscore", "precision": "Precision", "recall": "Recall"}
    rows = metrics.official.compute()["per_class"]
    for class_name in classes[: metrics.judged]:
        for ours, official in titles.items():
            value = want[f"{official}.{class_name}"]
            assert rows[class_name][ours] == pytest.approx(value, abs=1e-3), (official, class_name)


def check_potsdam_puzzle(case: Fixture) -> None:
    tiles = {name: tile.numpy() for name, tile in case.group("tile.").items()}
    (whole,) = stitch(tiles).values()
    assert list(whole.shape[:2]) == case.config["whole"]
    np.testing.assert_array_equal(whole, case["whole_rgb"].numpy())
    np.testing.assert_array_equal(six_to_five(whole), case["converted_5class_rgb"].numpy())


def check_official_full_model(case: Fixture) -> None:
    recorded = case.folder.json(case.name)
    state, rates = recorded["state_dict"], recorded["param_groups_lr_wd"]
    classes = {
        "cls": state["cls_head.fc.weight"][0],
        "det": state["bbox_head.cls_branches.0.weight"][0],
        "seg": 5,
    }
    with torch.device("meta"):
        model = rscotr(
            classes,
            multi_level="cls_head.pixel_decoder.level_encoding.weight" in state,
            num_queries=state["bbox_head.transformer.query_embed.weight"][0],
            mask_queries=state["seg_head.query_embed.weight"][0],
        )
    ours = {name: list(value.shape) for name, value in official_keys(model.state_dict()).items()}
    assert ours == state
    assert set(remap_official_keys(official_keys(model.state_dict()))) == set(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == recorded["total"]
    parts = {"encoder": "shared_encoder", "heads.cls": "cls_head", "heads.det": "bbox_head",
             "heads.seg": "seg_head", "backbone": "backbone", "neck": "neck"}  # fmt: skip
    for part, official in parts.items():
        count = sum(p.numel() for p in model.get_submodule(part).parameters())
        assert count == recorded["parameter_counts"][official]
    lr = max(rate for rate, _ in rates.values())
    factor = rates["backbone.patch_embed.projection.weight"][0] / lr
    piece = CoTrainingAdamW(
        lr, max(decay for _, decay in rates.values()), lr_factors={"backbone": factor}
    )
    for name, parameter in model.named_parameters():
        (official,) = official_keys({name: parameter})
        assert piece.rate(name) == pytest.approx(tuple(rates[official])), name


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "interleave": check_interleave,
    "iteration_strategies": check_iteration_strategies,
    "metrics": check_metrics,
    "potsdam_puzzle": check_potsdam_puzzle,
    "official_full_model": check_official_full_model,
    "msda": check_msda,
    "encoder": check_encoder,
    "encoder_state": check_state,
    "model_state": check_state,
    "det_eval": check_det_eval,
    "det_train": check_det_train,
    "seg": check_seg,
    "seg_head_scheme": check_seg_head_scheme,
    "cls_mlvl_schemes": check_cls_mlvl_schemes,
    "cls_slvl": check_cls_slvl,
    "whole_one_image": check_whole_one_image,
}


@pytest.mark.parametrize("name", found())
def test_agrees_with_the_official_implementation(name: str) -> None:
    case = Fixture(*found()[name])
    CHECKS[str(kind_of(name))](case)
    assert not case.unread, f"nobody reads {sorted(case.unread)}"
    print(f"{name}: {case.largest:.1e}")


def test_every_claimed_kind_has_a_check() -> None:
    assert sorted(CHECKS) == sorted(CLAIMED)
