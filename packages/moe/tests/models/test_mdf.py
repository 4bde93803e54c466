from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from swath.core.backbones.vit import Size, ViT
from swath.core.errors import CheckpointError, ConfigError
from swath.core.heads import UPerNet
from swath.core.models.segmentation import SegmentationModel
from swath.core.models.segmentation import official_keys as official_s4p_keys
from swath.moe.models.mdf import (
    MDFSegmenter,
    load_mdf,
    mdf_segmenter,
    official_keys,
    remap_official_keys,
)
from swath.moe.models.vit_moe import TokenViTMoE, ViTMoE

VIT = {
    "img_size": 32, "embed_dims": 24, "num_layers": 4, "num_heads": 2,
    "out_indices": (0, 1, 2, 3), "drop_path_rate": 0.0,
}  # fmt: skip
TASKS = {"fields": 3, "roads": 2, "roofs": 5}


def tiny(**options: object) -> MDFSegmenter:
    torch.manual_seed(0)
    backbone = ViTMoE(num_experts=3, part_features=8, **VIT)
    model = MDFSegmenter(backbone, TASKS, width=16, dropout=0.0, **options).double()
    for module in model.modules():  # norms that do something in eval mode
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def images(count: int, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.double)


def loss_of(logits: dict[str, Tensor]) -> Tensor:
    return torch.stack([x.sin().sum() for x in logits.values()]).sum()


def test_padding_is_cropped_or_as_officially_squeezed() -> None:
    image = images(1, 40)
    whole = tiny()(nn.functional.pad(image, (0, 8, 0, 8)), 0).by_task["fields"]
    cropped, squeezed = (tiny(crop_padding=c)(image, 0).by_task["fields"] for c in (True, False))
    assert torch.equal(cropped, whole[..., :40, :40])
    assert squeezed.shape == cropped.shape
    torch.testing.assert_close(squeezed[..., -1, -1], whole[..., -1, -1])


@pytest.mark.parametrize("training", [False, True])
def test_a_mixed_batch_gives_the_values_and_gradients_of_one_forward_per_task(
    training: bool,
) -> None:
    batch, ids = images(6), torch.tensor([2, 0, 1, 0, 2, 1])
    mixed_model, model = tiny().train(training), tiny().train(training)
    mixed = mixed_model(batch, ids)
    loss_of(mixed.by_task).backward()
    for number, name in enumerate(TASKS):
        alone = model(batch[ids == number], number)
        torch.testing.assert_close(alone.by_task[name], mixed.by_task[name], rtol=1e-9, atol=1e-9)
        loss_of(alone.by_task).backward()
    largest = 0.0
    for (name, one), two in zip(model.named_parameters(), mixed_model.parameters(), strict=True):
        if one.grad is None:
            assert two.grad is None, name
            continue
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-8, atol=1e-8)
        largest = max(largest, float((one.grad - two.grad).abs().max()))
    for one, two in zip(model.buffers(), mixed_model.buffers(), strict=True):
        torch.testing.assert_close(one, two)
    print(f"gradients differ by {largest:.1e} at most")


def test_samples_keep_their_places_and_their_classes_whatever_the_order() -> None:
    model, batch, ids = tiny(), images(5), torch.tensor([2, 0, 1, 0, 2])
    order = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        straight = model(batch, ids).per_sample()
        shuffled = model(batch[order], ids[order]).per_sample()
        alone = [model(x[None], int(t)).per_sample()[0] for x, t in zip(batch, ids, strict=True)]
    counts = list(TASKS.values())
    assert [len(x) for x in straight] == [counts[t] for t in ids]
    for place, origin in enumerate(order.tolist()):
        torch.testing.assert_close(shuffled[place], straight[origin])
        torch.testing.assert_close(alone[origin], straight[origin])


def test_a_task_without_samples_gets_zero_gradients_and_keeps_its_statistics() -> None:
    model = tiny().train()
    before = {k: v.clone() for k, v in model.decoders["roads"].state_dict().items()}
    logits = model(images(4), torch.tensor([0, 2, 2, 0]))
    assert logits.by_task["roads"].shape == (0, 2, 32, 32)
    loss_of(logits.by_task).backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, name
        own = "roads" in name or ".experts.1." in name
        assert bool((parameter.grad == 0).all()) == own, name
    for name, value in model.decoders["roads"].state_dict().items():
        assert "num_batches" in name or torch.equal(value, before[name]), name


@pytest.mark.parametrize("side", [32, 45])
def test_logits_have_the_size_of_the_image(side: int) -> None:
    logits = tiny()(images(1, side), 1)
    assert logits.by_task["roads"].shape == (1, 2, side, side)
    assert list(logits.by_task) == ["roads"]


def test_training_one_task_leaves_the_outputs_of_the_others_bit_for_bit() -> None:
    model, batch = tiny(trained=["roofs"]), images(4)
    with torch.no_grad():
        before = [model(batch, number).per_sample() for number in range(3)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(3):
        loss_of(model(batch, torch.tensor([2, 0, 2, 1])).by_task).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        after = [model(batch, number).per_sample() for number in range(3)]
    for task, same in enumerate([True, True, False]):
        assert all(map(torch.equal, before[task], after[task])) == same


@pytest.mark.parametrize(
    ("size", "count"), [("b", 160_402_206), ("l", 435_012_126), ("h", 824_451_358)]
)
def test_the_published_sizes_have_the_published_numbers_of_parameters(
    size: Size, count: int
) -> None:
    with torch.device("meta"):
        model = mdf_segmenter(size)
    assert sum(p.numel() for p in model.parameters()) == count
    if size == "b":
        keys = official_keys(model.state_dict())
        assert len(keys) == 556
        assert remap_official_keys({f"module.{k}": v for k, v in keys.items()}).keys() == (
            model.state_dict().keys()
        )


def s4p() -> SegmentationModel:
    torch.manual_seed(5)
    vit = ViT(**VIT)
    return SegmentationModel(vit, UPerNet(vit.channels, 16), 7, align_corners=True).double().eval()


@pytest.mark.parametrize("official", [False, True])
def test_a_model_started_from_s4p_has_its_features_for_every_task(official: bool) -> None:
    source, model, batch = s4p(), tiny(), images(2)
    state = source.state_dict()
    if official:
        state = {f"module.{k}": v for k, v in official_s4p_keys(state).items()}
    load_mdf(model, state)
    with torch.no_grad():
        maps = source.backbone(batch)
        for number, name in enumerate(TASKS):
            own = model.backbone(batch, number)
            for mine, theirs in zip(own, maps, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(
                model.decoders[name](own), source.decoder(maps), rtol=1e-10, atol=1e-10
            )


def test_a_model_of_any_size_starts_from_a_file_of_s4p(tmp_path: Path) -> None:
    source = s4p().float()
    save_file(source.state_dict(), tmp_path / "s4p.safetensors")
    backbone = ViTMoE(num_experts=3, part_features=8, **(VIT | {"img_size": 64}))
    model = MDFSegmenter(backbone, TASKS, width=16, weights=tmp_path / "s4p.safetensors").eval()
    for own, plain in zip(model.backbone.layers, source.backbone.layers, strict=True):
        whole = plain.ffn.layers[1]
        for expert in own.ffn.experts:
            assert torch.equal(expert.weight, whole.weight[-8:])
        assert torch.equal(own.ffn.layers[1].weight, whole.weight[:-8])
    batch = images(1, 64).float()  # a plain ViT resizes its embedding itself
    with torch.no_grad():
        for own, theirs in zip(model.backbone(batch, 1), source.backbone(batch), strict=True):
            torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)


def test_own_and_official_mdf_weights_are_taken_too() -> None:
    torch.manual_seed(0)
    models = [
        MDFSegmenter(
            ViTMoE(num_experts=2, part_features=8, **VIT), {"potsdam": 2, "openearthmap": 3}, 16
        )
        for _ in range(3)
    ]
    state = models[0].state_dict()
    theirs = official_keys(state)
    assert "semsegdecoder_OpenEarthMap.decode_head.bottleneck.conv.weight" in theirs
    load_mdf(models[1], state)
    load_mdf(models[2], {f"module.{k}": v for k, v in theirs.items()})
    for model in models[1:]:
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name


def test_weights_of_another_model_are_refused_with_what_differs() -> None:
    model = tiny()
    wider = ViT(**{**VIT, "embed_dims": 48})
    other = SegmentationModel(wider, UPerNet(wider.channels, 16), 7)
    with pytest.raises(CheckpointError, match=r"doesn't fit MDFSegmenter: .* of another shape"):
        load_mdf(model, other.state_dict())
    routed = MDFSegmenter(TokenViTMoE(num_experts=2, **VIT), TASKS, 16)
    with pytest.raises(
        CheckpointError, match=r"best\.pth: can't be loaded into experts for tokens"
    ):
        load_mdf(routed, other.state_dict(), where="best.pth")


def test_mistakes_are_named() -> None:
    model = tiny()
    with pytest.raises(ConfigError, match=r"unknown task 'road'.*knows fields, roads, roofs"):
        model.task_id("road")
    with pytest.raises(ConfigError, match=r"unknown task 'road'"):
        tiny(trained=["road"])
    for ids in (torch.tensor([0, 3]), torch.tensor([-1, 0]), 3):
        with pytest.raises(ValueError, match=r"task_ids must be in \[0, 3\)"):
            model(images(2), ids)
    with pytest.raises(ConfigError, match="one expert for each task"):
        MDFSegmenter(ViTMoE(num_experts=2, part_features=8, **VIT), TASKS)
    for name in ("a.b", "keys", "Roads", ""):
        with pytest.raises(ConfigError, match="can't name a task"):
            MDFSegmenter(ViTMoE(num_experts=2, part_features=8, **VIT), {name: 2})


def test_in_bf16_logits_are_those_of_fp32_to_its_precision() -> None:
    torch.manual_seed(0)
    model = tiny().float().train()
    batch, ids = images(4).float(), torch.tensor([0, 2, 1, 0])
    exact = model(batch, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = model(batch, ids)
    largest = 0.0
    for name, logits in exact.by_task.items():
        error = (coarse.by_task[name].float() - logits).abs().mean() / logits.abs().mean()
        largest = max(largest, error.item())
    print(f"mean relative difference {largest:.1e}")
    assert largest < 0.05
    loss_of(coarse.by_task).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
