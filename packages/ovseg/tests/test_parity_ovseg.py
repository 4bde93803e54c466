"""Agreement with tensors recorded from the official CAT-Seg, GSNet and RSKT-Seg.

Every fixture of a kind that this package claims (``parity_claims.json``) is checked, wherever it
comes from: the shared folder, or the small copies in ``data/parity``. The manifest gives the kind,
the configuration and the tolerances; a tensor that no check reads is a failure.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.backbones.swin import shifted_window_mask
from swath.core.checkpoint.official import load_strict
from swath.kernels import cost_volume
from swath.ovseg.clip import CLIP, remap_clip_keys
from swath.ovseg.losses import pixelwise_bce
from swath.ovseg.metrics import SemSegMetrics
from swath.ovseg.models import catseg, gsnet, rskt_seg
from swath.ovseg.models.base import remap
from swath.ovseg.models.catseg import Aggregator, CATSeg
from swath.ovseg.models.gsnet import RIPD, GSNet
from swath.ovseg.models.rskt_seg import RSKTDecoder, RSKTSeg
from swath.ovseg.optimizers import OpenVocabularyAdamW
from swath.ovseg.prompts import tokenize
from swath.ovseg.protocols import PublishedProtocol

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SWATH_PARITY_DIR", HERE.parents[2].parent / "shared" / "parity"))
CLAIMED: list[str] = json.loads((HERE / "parity_claims.json").read_text())["ovseg"]["kinds"]
GRADIENT = {"rtol": 1e-3, "atol": 1e-6}
"""Tolerance of gradient norms, given by the folder's README."""


class Fixture:
    """One recorded case: its manifest, and tensors that remember whether they were read."""

    def __init__(self, folder: Path, name: str) -> None:
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())[name]
        self.config: dict[str, Any] = self.manifest["config"]
        self.tensors = load_file(folder / self.manifest["file"])
        self.unread = set(self.tensors)
        self.largest = 0.0

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        value = self.tensors[name]
        return value.float() if value.dtype == torch.float16 else value

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix, by the rest of their names."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def named(self, name: str) -> str | None:
        """The full name of a tensor, whose annotation in brackets may be left out."""
        pattern = re.compile(re.escape(name) + r"(\([^)]*\)|\[[^\]]*\])?")
        return next((n for n in self.tensors if pattern.fullmatch(n)), None)

    def want(self, name: str) -> Tensor:
        """The one tensor of that name, its annotation left out."""
        full = self.named(name)
        assert full is not None, f"{name} is not recorded"
        return self[full]

    def check(self, name: str, got: Tensor) -> None:
        """Compare with the recorded tensor, if there is one, by the manifest's tolerance."""
        full = self.named(name)
        if full is None:
            assert name.startswith("mid/"), f"{name} is not recorded"
            return
        self.close(full, got, self[full])

    def close(self, name: str, got: Tensor, want: Tensor) -> None:
        got, tolerance = got.detach(), self.manifest["tolerance"]
        self.largest = max(self.largest, float((got - want).abs().max()))
        torch.testing.assert_close(
            got,
            want,
            rtol=tolerance["rtol"],
            atol=tolerance["atol"],
            msg=lambda text: f"{name}: {text}",
        )

    def check_gradient_norms(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Compare the gradients of all parameters that have one officially."""
        for name, want in self.manifest["param_grad_l2"].items():
            got = gradients.get(name)
            if want is None:
                assert got is None or not got.any(), f"{name} has a gradient"
                continue
            norm = torch.zeros(()) if got is None else got.norm()
            torch.testing.assert_close(
                norm, torch.tensor(want), **GRADIENT, msg=lambda t, n=name: f"gradient of {n}: {t}"
            )


def fixtures() -> dict[str, Path]:
    """The folder of each fixture; the shared one wins."""
    found = {}
    for folder in (HERE / "data/parity", SHARED / "ovseg"):
        path = folder / "manifest.json"
        entries = json.loads(path.read_text()) if path.is_file() else {}
        found |= {name: folder for name, entry in entries.items() if entry["kind"] in CLAIMED}
    return found


@contextmanager
def watching(modules: Mapping[str, nn.Module], before: Mapping[str, nn.Module] | None = None):
    """Collects what modules return (and the first argument some are given), by name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        seen.setdefault(name, value)

    handles = [
        module.register_forward_hook(lambda m, i, o, n=name: keep(n, o))
        for name, module in modules.items()
    ]
    handles += [
        module.register_forward_pre_hook(lambda m, i, n=name: keep(n, i[0]))
        for name, module in (before or {}).items()
    ]
    yield seen
    for handle in handles:
        handle.remove()


def volume(x: Tensor) -> Tensor:
    """``(B, T, H, W, C)`` as the official (B, C, T, H, W)."""
    return x.permute(0, 4, 1, 2, 3)


def images(x: Tensor) -> Tensor:
    """``(B, T, H, W, C)`` as the official (B T, C, H, W)."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


LOCAL = {
    "B", "T", "feature_resolution", "feat_dim", "decoder_clip_guidance_dims",
    "decoder_dino_guidance_dims", "decoder_guidance_proj_dims", "use_clip_corr", "use_dino_corr",
    "efficient_aggregator_heads", "efficient_class_pool", "efficient_sr_ratio",
}  # fmt: skip
"""What the manifest says and our constructors of decoders don't take, or not under that name."""


def arguments(config: Mapping[str, Any], *more: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in LOCAL or k in more}


def load(case: Fixture, model: nn.Module, **options: Any) -> None:
    """Load an aggregator's state strictly; masks of windows must be what is computed here."""
    state = case.group("state/")
    height, width = case.config["feature_resolution"]
    window = case.config["window_size"]
    for name, mask in state.items():
        if name.endswith("attn_mask"):
            case.close(name, shifted_window_mask(height, width, window), mask)
    load_strict(model, remap(state, {}), **options)


def finish(
    case: Fixture, logits: Tensor, inputs: Mapping[str, Tensor], parameters: nn.Module
) -> None:
    """Compare logits, the loss, and all gradients."""
    case.check("out/logits", logits)
    counted = logits.masked_fill(logits == catseg.TRUNCATED_LOGIT, 0.0)
    loss = (counted * case["in/loss_weight"]).mean()
    case.check("out/loss", loss)
    loss.backward()
    for name, tensor in inputs.items():
        assert tensor.grad is not None
        case.check(f"grad/{name}", tensor.grad)
    case.check_gradient_norms({n: p.grad for n, p in parameters.named_parameters()})


def check_layers(case: Fixture, seen: Mapping[str, Tensor], efficient: bool = False) -> None:
    """Compare what was seen of the layers with what is recorded of them."""
    as_official = images if efficient else volume
    for name in (n for n in case.tensors if n.startswith("mid/layer")):
        key = name.removeprefix("mid/").split("(")[0]
        value = seen[key]
        if key.endswith(".attention"):
            case.check(f"mid/{key}", value.flatten(0, 1).flatten(1, 2))
        else:
            case.check(f"mid/{key}", as_official(value))


def layer_modules(layers: nn.ModuleList) -> dict[str, nn.Module]:
    watched: dict[str, nn.Module] = {}
    for number, layer in enumerate(layers):
        if isinstance(layer, rskt_seg.RSFusionLayer):
            spatial = layer.spatial_fusion["sa"]
            watched[f"layer{number}.spatial"] = spatial
            watched[f"layer{number}.spatial.attention"] = spatial.attention
        else:
            watched[f"layer{number}.spatial"] = layer.swin_block
        watched[f"layer{number}.class"] = layer
    return watched


def simple_modules(model: nn.Module, *names: str) -> dict[str, nn.Module]:
    return {name: model.get_submodule(name) for name in names if hasattr(model, name)}


def gradable(case: Fixture, *names: str) -> list[Tensor]:
    return [case.want(f"in/{name}").requires_grad_() for name in names]


def check_catseg_aggregator(case: Fixture) -> None:
    model = Aggregator(**{**arguments(case.config, "decoder_guidance_proj_dims")}).eval()
    load(case, model)
    features, text = gradable(case, "img_feats", "text_feats")
    guidance = [case[f"in/guidance.{i}"] for i in range(3)]
    watched = layer_modules(model.layers)
    watched |= simple_modules(model, "conv1", "decoder1")
    watched |= {"appearance_proj": model.guidance_projection}
    watched |= {"text_proj": model.text_guidance_projection}
    for i, projection in enumerate(model.decoder_guidance_projection):
        watched[f"decoder_guidance_proj.{i}"] = projection
    with watching(watched) as seen:
        logits = model(features, text, guidance)
    case.check("mid/corr", cost_volume([features], text, (0,)))
    for name in ("appearance_proj", "text_proj", "conv1", "decoder1"):
        case.check(f"mid/{name}", seen[name])
    for i in range(2):
        case.check(f"mid/decoder_guidance_proj.{i}", seen[f"decoder_guidance_proj.{i}"])
    check_layers(case, seen)
    finish(case, logits, {"img_feats": features, "text_feats": text}, model)


def check_gsnet_ripd(case: Fixture) -> None:
    config = case.config
    model = RIPD(**arguments(config, "feat_dim", "use_clip_corr", "use_dino_corr")).eval()
    load(case, model)
    (text,) = gradable(case, "text_feats")
    inputs = {"text_feats": text}
    clip = dino = None
    guidance = dino_guidance = []
    if config["use_clip_corr"]:
        (clip,) = gradable(case, "clip_feats")
        inputs["clip_feats"] = clip
        names = [f"in/guidance.{i}" for i in range(3)]
        guidance = [case[n] for n in names if n in case]  # it needn't guide the decoder
        case.check("mid/corr_clip", cost_volume([clip], text, (0,)))
    if config["use_dino_corr"]:
        (dino,) = gradable(case, "dino_feats")
        inputs["dino_feats"] = dino
        names = [f"in/dino_guidance.{i}" for i in range(2)]
        dino_guidance = [case[n] for n in names if n in case]
        case.check("mid/corr_dino", cost_volume([dino], text, (0,)))
    simple = ("conv1", "conv2", "fusion_corr", "fusion_feats", "Fusiondecoder1")
    watched = layer_modules(model.layers) | simple_modules(model, *simple)
    with watching(watched, {"fused_embed": model.layers[0]}) as seen:
        logits = model(clip, dino, text, guidance, dino_guidance)
    for name in simple:
        if name in seen:
            case.check(f"mid/{name}", seen[name])
    case.check("mid/fused_embed", volume(seen["fused_embed"]))
    check_layers(case, seen)
    finish(case, logits, inputs, model)


def check_rskt_decoder(case: Fixture) -> None:
    config = case.config
    model = RSKTDecoder(**arguments(config)).eval()
    load(case, model)
    (text,) = gradable(case, "text_feats")
    names = [f"clip_feats.rot{90 * k}" for k in model.rotations]
    if not config["use_rotate"] and case.named("in/clip_feats") is not None:
        names = ["clip_feats"]
    clip = gradable(case, *names)
    inputs = {"text_feats": text} | dict(zip(names, clip, strict=True))
    case.check("mid/corr_clip", cost_volume(clip, text, model.rotations))
    dino, dino_guidance, remote_guidance = None, [], []
    if config["use_remote_dino"]:
        (dino,) = gradable(case, "dino_feats")
        inputs["dino_feats"] = dino
        dino_guidance = [case[f"in/dino_guidance.{i}"] for i in range(2)]
        case.check("mid/corr_dino", cost_volume([dino], text, (0,)))
    if config["use_remote_clip"]:
        remote_guidance = [case[f"in/remote_guidance.{i}"] for i in range(2)]
    guidance = [case[f"in/guidance.{i}"] for i in range(3)]
    simple = ("conv1", "conv2", "fusion_corr")
    watched = layer_modules(model.layers) | simple_modules(model, *simple)
    with watching(watched, {"fused_embed": model.layers[0]}) as seen:
        logits = model(clip, dino, text, guidance, remote_guidance, dino_guidance)
    for name in simple:
        if name in seen:
            case.check(f"mid/{name}", seen[name])
    case.check("mid/fused_embed", volume(seen["fused_embed"]))
    check_layers(case, seen, config["use_efficient"])
    finish(case, logits, inputs, model)


def clip_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's arguments of CLIP in our spelling."""
    names = {
        "image_resolution": "image_size",
        "vision_patch_size": "patch_size",
        "patch": "patch_size",
        "transformer_width": "text_width",
        "transformer_layers": "text_layers",
        "transformer_heads": "text_heads",
    }
    renamed = {names.get(k, k): v for k, v in config.items() if k != "vision_heads"}
    return {"text_heads": renamed["text_width"] // 64} | renamed


def check_clip_dense_tower(case: Fixture) -> None:
    model = CLIP(**clip_arguments(case.config)).eval()
    load_strict(model, case.group("state/"))
    ordinary = model.visual.transformer.resblocks[:-1]
    blocks = {f"block{n}": block for n, block in enumerate(ordinary)}
    patch, own = case.config["vision_patch_size"], case.config["image_resolution"]
    sizes = [int(n.removeprefix("in/image_")) for n in case.tensors if n.startswith("in/image_")]
    with torch.no_grad():
        for size in sizes:
            image = case[f"in/image_{size}"]
            grid = (size // patch, size // patch)
            image = image[..., : grid[0] * patch, : grid[1] * patch]  # all that patches see
            watched = blocks | {"ln_pre": model.visual.ln_pre}
            with watching(watched | {"ln_post": model.visual.ln_post}) as seen:
                tokens, _ = model.dense_tokens(image, grid)
            case.check(f"mid/{size}.pos_embed_resized", model.position_embedding(grid))
            case.check(f"mid/{size}.ln_pre", seen["ln_pre"])
            case.check(f"mid/{size}.ln_post", seen["ln_post"])
            for name in blocks:
                case.check(f"mid/{size}.{name}", seen[name].transpose(0, 1))
            case.check(f"out/dense_{size}", tokens)
        if own in sizes:
            case.check(f"out/global_{own}", model.encode_image(case[f"in/image_{own}"]))
        case.check("out/text", model.encode_text(case["in/tokens"]))


def check_clip_build_model_rounding(case: Fixture) -> None:
    model = CLIP(**clip_arguments(case.config))
    published = case.group("openai/")
    converted = remap_clip_keys(published, round_to_half=True)
    load_strict(model, converted)
    changed = case.group("state/")
    assert set(converted) == {k for k in published if "in_proj_weight" not in k} | set(changed)
    for name, value in model.state_dict().items():
        want = changed[name] if name in changed else published[name]
        case.close(name, value, want.float())


def check_prompt_tokens(case: Fixture) -> None:
    for name, classes in case.config["class_names"].items():
        first = [c.split(", ")[0] for c in classes]  # what the official code does with alternatives
        length = case.config["context_length"]
        ids = tokenize(first, [case.config["template"]], length)[:, 0]
        padded = F.pad(ids, (0, length - ids.shape[1]))
        case.check(f"out/{name}", padded.to(case.tensors[f"out/{name}"].dtype))


def check_loss(case: Fixture) -> None:
    (logits,) = gradable(case, "logits")
    loss = pixelwise_bce(logits, case["in/target"].long(), case.config["ignore_value"])
    case.check("out/loss", loss)
    loss.backward()
    assert logits.grad is not None
    case.check("grad/logits", logits.grad)


def check_sem_seg_evaluator(case: Fixture) -> None:
    config, wanted = case.config, case.manifest["metrics"]
    classes = [f"c{i}" for i in range(config["num_classes"])]
    metrics = SemSegMetrics(classes, config["ignore_label"])
    predictions = case["in/pred"]
    metrics.update(list(predictions), {"mask": case["in/gt"]})
    case.check("out/conf_matrix", metrics.matrix)
    figures = metrics.compute()
    got = {name: 100 * figures[name] for name in ("mIoU", "mACC", "fwIoU", "pACC")}
    for label, row in figures["per_class"].items():
        for figure, key in (("IoU", "IoU"), ("ACC", "recall")):
            got[f"{figure}-{label}"] = None if row[key] is None else 100 * row[key]
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert got[name] == (value if value is None else pytest.approx(value, abs=1e-6)), name


MODELS: dict[str, tuple[type[nn.Module], Any]] = {
    "catseg_meta": (CATSeg, catseg),
    "gsnet_meta": (GSNet, gsnet),
    "rskt_meta": (RSKTSeg, rskt_seg),
}


THIN = ("ViT-B/16", "RemoteCLIP-ViT-B-32")
"""CLIPs whose fourth and eighth block guide the decoder; of others, the eighth and sixteenth."""


def finetuning(trainable: Sequence[str], tower: str) -> str | None:
    """How a tower is fine-tuned, which manifests don't say, by what of it trains; None: not."""
    names = [name for name in trainable if tower in name]
    if not names:
        return None
    if any(".mlp." in name for name in names):
        return "full"
    return "attention" if any("visual" in n or "qkv" in n for n in names) else "freezeIMG"


def meta_model(manifest: Mapping[str, Any]) -> nn.Module:
    config, kind, trainable = (manifest[key] for key in ("config", "kind", "trainable"))
    predictor = config["predictor"]
    names = {"num_heads": "nheads", "hidden_dims": "hidden_dim", "pooling_sizes": "pooling_size"}
    names["window_sizes"] = "window_size"
    official = {
        "num_heads", "hidden_dims", "pooling_sizes", "window_sizes", "attention_type", "num_layers",
        "appearance_guidance_proj_dim", "text_guidance_proj_dim", "decoder_dims",
    }  # fmt: skip
    if kind == "catseg_meta":
        official |= {"decoder_guidance_proj_dims"}
    else:
        official |= {"decoder_clip_guidance_proj_dims", "decoder_dino_guidance_proj_dims"}
    aggregator = {names.get(k, k): v for k, v in predictor.items() if k in official}
    aggregator["pad_len"] = config["pad_len"]
    clip = clip_arguments(config["clip"])
    options: dict[str, Any] = {"guidance_dims": config["guidance_dims"]}
    options["taps"] = (3, 7) if predictor["clip_pretrained"] in THIN else (7, 15)
    options["finetune"] = finetuning(trainable, ".clip_model.") or "frozen"
    if config["dino"] is not None:
        options["dino_finetune"] = finetuning(trainable, "dino_model.") or "freeze"
        fixed = ("eps", "mlp_ratio")
        assert config["dino"]["eps"] == 1e-6
        options["specialist"] = {k: v for k, v in config["dino"].items() if k not in fixed}
        aggregator["fusion_type"] = config["fusion_type"]
    if kind == "gsnet_meta":
        options |= {"use_clip": predictor["use_clip_corr"], "use_dino": predictor["use_dino_corr"]}
    if kind == "rskt_meta":
        for option in ("use_rotate", "use_remote_clip", "use_remote_dino"):
            options[option] = config[option]
        aggregator["use_efficient"] = config["use_efficient"]
        if config["use_remote_clip"]:
            options["remote_clip"] = clip | {"patch_size": config["remote_clip_patch"]}
    return MODELS[kind][0](clip=clip, aggregator=aggregator, **options)


UNRECORDED = ("remote_clip.",)
"""What the folder's README says is left out: parts of RemoteCLIP that never run."""


def check_meta(case: Fixture) -> None:
    config, kind = case.config, case.manifest["kind"]
    side = config["clip_input"] // config["clip"]["vision_patch_size"]
    grid = (side, side)
    model = meta_model(case.manifest)
    remap_keys, official_keys = MODELS[kind][1].remap_official_keys, MODELS[kind][1].official_keys
    state = case.group("state/")
    load_strict(model, remap_keys(state), may_miss=UNRECORDED)
    assert set(official_keys(remap_keys(state))) == set(state)

    mean, std = (torch.tensor(config[k])[:, None, None] for k in ("pixel_mean", "pixel_std"))
    pad_to = max(1, config["size_divisibility"])
    image = (case["in/train.images"].float() - mean) / std
    image = F.pad(image, (0, -image.shape[-1] % pad_to, 0, -image.shape[-2] % pad_to))
    text = model.encode_text(case["in/tokens"].long()[:, None])
    model.train()
    logits = model.score(image, text, grid)
    case.check("mid/train.logits", logits)
    with torch.no_grad():
        check_towers(case, model, image, grid)
    loss = pixelwise_bce(logits, case["in/train.target"].long(), config["ignore_value"])
    case.check("out/train.loss", loss)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    case.check_gradient_norms(official_keys(gradients))
    check_optimiser(case, model, official_keys)

    model.eval()
    with torch.no_grad():
        text = model.encode_text(case["in/tokens"].long()[:, None])
        window = config["sliding_window"]
        for name in (n.split(".")[0] for n in case.group("in/eval_")):
            protocol = PublishedProtocol(
                not name.startswith("noslide"), None, canvas=window["canvas"],
                window=window["kernel"], stride=window["stride"], pad_to=pad_to,
            )  # fmt: skip
            image = (case[f"in/eval_{name}.image"].float() - mean) / std
            want = case.want(f"out/eval_{name}.sem_seg")
            score = lambda x, grid: model.score(x, text, grid)  # noqa: E731
            got = protocol.scored(score, image[None], tuple(want.shape[-2:]))
            case.check(f"out/eval_{name}.sem_seg", got)


def check_towers(case: Fixture, model: nn.Module, image: Tensor, grid: tuple[int, int]) -> None:
    """CLIP's dense tokens in each direction, and the specialist's, as far as recorded."""
    sized = F.interpolate(image, (grid[0] * model.clip.patch_size,) * 2, mode="bilinear")
    for turns in range(4):
        number = f"#{turns}" if turns else ""
        name = next((n for n in case.tensors if n.startswith("mid/train.clip_dense")
                     and n.endswith(number or ")")), None)  # fmt: skip
        if name is not None:
            want = case[name]
            tokens, _ = model.clip.dense_tokens(torch.rot90(sized, turns, (2, 3)), grid)
            case.close(name, tokens[: len(want), : want.shape[1]], want)
    recorded = [n for n in case.tensors if n.startswith("mid/train.dino")]
    if recorded:
        normed: list[Tensor] = []
        handle = model.specialist.vit.norm.register_forward_hook(lambda m, i, o: normed.append(o))
        model.specialist(image, grid)
        handle.remove()
        for name in recorded:
            want = case[name]
            got = normed[-1] if "last" in name else normed[0]
            case.close(name, got[: len(want), : want.shape[1]], want)


def check_optimiser(case: Fixture, model: nn.Module, official_keys: Callable[..., Any]) -> None:
    """What trains, by what rate and decay, and how the rate falls."""
    config = case.config["optimizer_config"]  # SGD officially has the same groups
    names = {id(p): n for n, p in model.named_parameters()}
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(official_keys(trainable)) == set(case.manifest["trainable"])
    make = OpenVocabularyAdamW(config["base_lr"], config["weight_decay"], config["clip_multiplier"])
    optimisation = make(model, config["max_iter"])
    groups = optimisation.optimizer.param_groups
    rates = {names[id(p)]: [g["lr"], g["weight_decay"]] for g in groups for p in g["params"]}
    for name, (lr, decay) in case.manifest["optimizer_lr_wd"].items():
        got = official_keys(rates)[name]
        assert got == pytest.approx([lr, decay], rel=1e-6), name
    for step, factor in case.manifest["lr_factor_at_iter"].items():
        assert optimisation.factor(int(step)) == pytest.approx(factor, rel=1e-5, abs=1e-12)


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "catseg_aggregator": check_catseg_aggregator,
    "catseg_meta": check_meta,
    "clip_build_model_rounding": check_clip_build_model_rounding,
    "clip_dense_tower": check_clip_dense_tower,
    "gsnet_meta": check_meta,
    "gsnet_ripd": check_gsnet_ripd,
    "loss": check_loss,
    "prompt_tokens": check_prompt_tokens,
    "rskt_decoder": check_rskt_decoder,
    "rskt_meta": check_meta,
    "sem_seg_evaluator": check_sem_seg_evaluator,
}


@pytest.mark.parametrize("name", fixtures())
def test_agrees_with_the_official_implementation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWATH_KERNELS", "reference")
    case = Fixture(fixtures()[name], name)
    CHECKS[case.manifest["kind"]](case)
    assert not case.unread, f"nobody reads {sorted(case.unread)}"
    print(f"{name}: {case.largest:.1e}")


def test_every_claimed_kind_has_a_check() -> None:
    assert sorted(CHECKS) == sorted(CLAIMED)
