import pytest
import torch
from torch import Tensor

from swath.core.backbones.vit import Size
from swath.moe.models.vit_moe import TaskFeedForward, ViTMoE, vit_moe


def tiny(**options: object) -> ViTMoE:
    torch.manual_seed(0)
    arguments = {
        "img_size": 32, "embed_dims": 24, "num_layers": 4, "num_heads": 2,
        "out_indices": (0, 1, 2, 3), "drop_path_rate": 0.0, **options,
    }  # fmt: skip
    return ViTMoE(num_experts=3, part_features=8, **arguments).double()


def images(count: int) -> Tensor:
    return torch.randn(
        count, 3, 32, 48, generator=torch.Generator().manual_seed(1), dtype=torch.double
    )


def gradients(model: ViTMoE) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def loss_of(maps: list[Tensor]) -> Tensor:
    return torch.stack([m.sin().sum() for m in maps]).sum()


def test_a_mixed_batch_gives_the_values_and_gradients_of_one_forward_per_task() -> None:
    model, batch, ids = tiny(), images(5), torch.tensor([2, 0, 1, 0, 2])
    mixed = model(batch, ids)
    loss_of(mixed).backward()
    together = gradients(model)
    for task in range(3):
        alone = model(batch[ids == task], task)
        for one, many in zip(alone, mixed, strict=True):
            torch.testing.assert_close(one, many[ids == task], rtol=1e-10, atol=1e-10)
        loss_of(alone).backward()
    separate = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert together.keys() == separate.keys()
    for name, value in separate.items():
        torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)


def test_the_order_of_a_batch_does_not_matter() -> None:
    model, batch, ids = tiny(), images(5), torch.tensor([2, 0, 1, 0, 2])
    order = torch.tensor([3, 1, 4, 0, 2])
    for straight, shuffled in zip(model(batch, ids), model(batch[order], ids[order]), strict=True):
        torch.testing.assert_close(straight[order], shuffled, rtol=1e-12, atol=1e-12)


def test_an_expert_without_samples_gets_zero_gradients_and_the_others_theirs() -> None:
    model = tiny()
    loss_of(model(images(2), torch.tensor([0, 2]))).backward()
    for layer in model.layers:
        largest = [float(e.weight.grad.abs().max()) for e in layer.ffn.experts]
        assert largest[1] == 0
        assert min(largest[0], largest[2]) > 0


def test_checkpointing_changes_neither_values_nor_gradients() -> None:
    ids = torch.tensor([1, 2])
    results = []
    for checkpointing in (False, True):
        model = tiny(checkpointing=checkpointing).train()
        loss = loss_of(model(images(2), ids))
        loss.backward()
        results.append((loss, gradients(model)))
    (loss, plain), (loss_again, recomputed) = results
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_stochastic_depth_drops_the_feed_forward_branch_of_whole_samples() -> None:
    model = tiny(drop_path_rate=0.9).train()
    last = model.layers[-1]
    x = torch.randn(64, 6, 24, dtype=torch.double)
    ids = torch.arange(64) % 3
    with torch.no_grad():
        attended = x + last.attn["attn"](last.ln1(x))
        branch = last(x, ids) - attended
        whole = last.ffn(last.ln2(attended), ids) / (1 - 0.9)
    dropped = branch.flatten(1).abs().amax(1) < 1e-12
    assert 0.7 < dropped.double().mean() < 1
    torch.testing.assert_close(branch[~dropped], whole[~dropped])


@pytest.mark.parametrize(
    ("size", "count"), [("b", 121_834_752), ("l", 392_250_368), ("h", 777_495_296)]
)
def test_the_published_sizes_have_the_published_numbers_of_parameters(
    size: Size, count: int
) -> None:
    with torch.device("meta"):
        model = vit_moe(size, num_experts=4)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("ids", [torch.tensor([0, 3]), torch.tensor([-1, 0]), 3])
def test_a_task_id_out_of_range_is_refused(ids: Tensor | int) -> None:
    with pytest.raises(ValueError, match=r"task_ids must be in \[0, 3\)"):
        tiny()(images(2), ids)


@pytest.mark.parametrize(("experts", "part"), [(0, 4), (2, 0), (2, 24)])
def test_sizes_that_make_no_layer_are_refused(experts: int, part: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1 and part_features"):
        TaskFeedForward(24, 48, experts, part)
