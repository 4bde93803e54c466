import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from swath.core.backbones.vit import Size, ViT
from swath.core.errors import CheckpointError, ConfigError
from swath.moe.models.mdf_detector import (
    MDFDetector,
    load_mdf_detector,
    mdf_detector,
    official_keys,
    remap_official_keys,
    single_detector,
)
from swath.moe.models.vit_moe import ViTMoE


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def tiny(tasks: dict[str, int] | None = None, **options: object) -> MDFDetector:
    torch.manual_seed(0)
    backbone = ViTMoE(
        num_experts=2,
        part_features=8,
        img_size=64,
        embed_dims=32,
        num_layers=4,
        num_heads=2,
        out_indices=[0, 1, 2, 3],
        drop_path_rate=0.0,
    )
    chosen = tasks or {"ships": 2, "planes": 3}
    return MDFDetector(backbone, chosen, channels=16, fc_channels=32, anchor_scale=4, **options)


def scene(seed: int, count: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 3, 64, 64, generator=generator)
    sides = torch.tensor([[14.0, 10.0]]).expand(2, 2)
    boxes = [
        torch.cat([20 + 24 * torch.rand(2, 2, generator=generator), sides], 1) for _ in range(count)
    ]
    turned = [torch.cat([b, torch.rand(2, 1, generator=generator)], 1) for b in boxes]
    return image, turned, [torch.tensor([0, 1])] * count


# S5 dossier, table of g, whose figures in millions these are
@pytest.mark.parametrize(
    ("size", "img_size", "expected"),
    [
        ("b", 512, 138_283_356),
        ("b", 1024, 140_642_652),
        ("l", 512, 377_759_836),
        ("h", 512, 729_970_524),
    ],
)
def test_the_published_detector_has_the_published_number_of_parameters(
    size: Size, img_size: int, expected: int
) -> None:
    with torch.device("meta"):
        assert parameters(mdf_detector(size, img_size=img_size)) == expected


@pytest.mark.parametrize(
    ("size", "img_size", "expected"),
    [
        ("b", 512, 111_179_567),
        ("b", 800, 112_313_135),
        ("b", 1024, 113_538_863),
        ("l", 512, 334_662_191),
        ("l", 800, 336_173_615),
        ("l", 1024, 337_807_919),
        ("h", 512, 669_831_471),
        ("h", 800, 671_720_751),
        ("h", 1024, 673_763_631),
    ],
)
def test_single_detectors_have_the_published_number_of_parameters(
    size: Size, img_size: int, expected: int
) -> None:
    with torch.device("meta"):
        assert parameters(single_detector(size, 20, img_size=img_size)) == expected


def test_official_keys_of_the_full_model_are_264_and_come_back() -> None:
    with torch.device("meta"):
        model = mdf_detector("b")
    keys = official_keys(model.state_dict())
    assert len(keys) == 264
    assert "roi_head_dota.bbox_head.shared_fcs.1.weight" in keys
    assert "neck_dior.lateral_convs.0.conv.bias" in keys
    assert set(remap_official_keys({f"module.{k}": v for k, v in keys.items()})) == set(
        model.state_dict()
    )


def test_a_mixed_batch_has_the_losses_of_its_parts() -> None:
    model = tiny().train()
    image, boxes, labels = scene(0, 4)
    ids = torch.tensor([1, 0, 1, 0])
    sizes = [(64, 64)] * 4
    torch.manual_seed(1)
    mixed = model(image, ids, sizes, boxes, labels)
    torch.manual_seed(1)  # samples are drawn task by task, image by image
    alone = {
        name: model(image[rows], number, sizes[:2], [boxes[i] for i in rows], labels[:2])[name]
        for number, (name, rows) in enumerate({"ships": [1, 3], "planes": [0, 2]}.items())
    }
    for name, losses in alone.items():
        for kind, loss in losses.items():
            torch.testing.assert_close(mixed[name][kind], loss, rtol=1e-5, atol=1e-6)


def test_a_mixed_batch_finds_what_each_image_shows_alone() -> None:
    model = tiny().eval()
    for head in model.heads.values():
        head.thresholds = (0.2, 0.1, 50)  # type: ignore[assignment]
    image, _, _ = scene(1, 3)
    sizes = [(64, 64)] * 3
    with torch.no_grad():
        mixed = model(image, torch.tensor([1, 0, 1]), sizes)
        for i, task in enumerate([1, 0, 1]):
            (alone,) = model(image[i : i + 1], task, sizes[:1])
            assert len(alone) > 0
            torch.testing.assert_close(mixed[i].boxes, alone.boxes, rtol=1e-4, atol=1e-3)
            assert torch.equal(mixed[i].labels, alone.labels)


def test_every_trainable_weight_gets_a_gradient_even_of_a_task_without_samples() -> None:
    model = tiny().train()
    image, boxes, labels = scene(2, 2)
    losses = model(image, torch.tensor([0, 0]), [(64, 64)] * 2, boxes, labels)
    assert set(losses) == {"ships", "planes"}
    total = sum(loss for part in losses.values() for loss in part.values() if loss.requires_grad)
    assert isinstance(total, Tensor)
    total.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    idle = [p.grad for n, p in model.named_parameters() if "heads.planes" in n]
    assert all(g is not None and not g.any() for g in idle)


def test_the_losses_do_not_depend_on_which_side_of_an_object_comes_first() -> None:
    model = tiny(rpn_samples=10_000, roi_samples=10_000).train()
    image, boxes, labels = scene(5, 2)
    turned = [
        torch.stack((b[:, 0], b[:, 1], b[:, 3], b[:, 2], b[:, 4] + math.pi / 2), 1) for b in boxes
    ]
    for same in (turned, [b + torch.tensor([0, 0, 0, 0, math.pi]) for b in boxes]):
        first, second = (model(image, 0, [(64, 64)] * 2, b, labels)["ships"] for b in (boxes, same))
        for kind, loss in first.items():
            torch.testing.assert_close(loss, second[kind], rtol=1e-4, atol=1e-5)


def test_images_without_objects_teach_background() -> None:
    model = tiny().train()
    image, _, _ = scene(3, 2)
    empty = [torch.zeros(0, 5)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    losses = model(image, 0, [(64, 64)] * 2, *empty)["ships"]
    assert losses["rpn_box"].item() == losses["roi_box"].item() == 0
    assert losses["rpn_cls"].item() > 0
    assert losses["roi_cls"].item() > 0


def test_images_of_any_size_are_padded_to_whole_cells() -> None:
    model = tiny().eval()
    found = model(torch.randn(1, 3, 70, 45), 1, [(70, 45)])
    assert found[0].boxes.shape[1] == 5


def test_training_one_task_leaves_the_others_as_they_were() -> None:
    model = tiny(trained=["planes"]).train()
    image, boxes, labels = scene(4, 2)
    model.eval()
    before = model(image, 0, [(64, 64)] * 2)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = model(image, 1, [(64, 64)] * 2, boxes, labels)["planes"]
    torch.stack([loss for loss in losses.values() if loss.requires_grad]).sum().backward()
    optimizer.step()
    model.eval()
    after = model(image, 0, [(64, 64)] * 2)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(after, before, strict=True))


def test_starts_from_a_plain_backbone_whose_features_every_task_then_has() -> None:
    torch.manual_seed(3)
    plain = ViT(
        img_size=64, embed_dims=32, num_layers=4, num_heads=2, out_indices=[0, 1, 2, 3]
    ).eval()
    model = tiny().eval()
    load_mdf_detector(model, {f"encoder.{k}": v for k, v in plain.state_dict().items()})
    image = torch.randn(1, 3, 64, 64)
    for number in range(2):
        for got, want in zip(model.backbone(image, number), plain(image), strict=True):
            torch.testing.assert_close(got, want)
    again = tiny()
    load_mdf_detector(again, official_keys(model.state_dict()))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    with pytest.raises(CheckpointError, match="doesn't fit"):
        load_mdf_detector(again, {"pos_embed": torch.zeros(1, 16, 32)})


def test_a_detector_of_any_size_starts_from_a_file_of_a_plain_backbone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = ViT(img_size=32, embed_dims=32, num_layers=4, num_heads=2, out_indices=[0, 1, 2, 3])
    save_file(plain.state_dict(), tmp_path / "vit.safetensors")
    model = tiny(weights=tmp_path / "vit.safetensors")
    for own, theirs in zip(model.backbone.layers, plain.layers, strict=True):
        whole = theirs.ffn.layers[1].weight
        for expert in own.ffn.experts:
            assert torch.equal(torch.cat([own.ffn.layers[1].weight, expert.weight]), whole)


def test_refuses_unknown_tasks_and_presets() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'ship'; did you mean 'ships'\?"):
        tiny().task_id("ship")
    with pytest.raises(ConfigError, match=r"unknown preset 'mmrotat'; did you mean 'mmrotate'\?"):
        tiny(preset="mmrotat")
    with pytest.raises(ConfigError, match=r"3 tasks .* for 2 experts"):
        tiny({"a": 1, "b": 1, "c": 1})
