import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from swath.core.backbones.vit import Size
from swath.moe.models.vit_moe import TaskFeedForward, TokenFeedForward, TokenViTMoE, ViTMoE, vit_moe


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


def routed(**options: object) -> TokenViTMoE:
    torch.manual_seed(0)
    arguments = {
        "img_size": 32, "embed_dims": 24, "num_layers": 4, "num_heads": 2,
        "out_indices": (0, 1, 2, 3), "drop_path_rate": 0.0, **options,
    }  # fmt: skip
    return TokenViTMoE(num_experts=5, **arguments).double()


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_a_token_goes_through_the_experts_its_router_prefers(top_k: int) -> None:
    torch.manual_seed(0)
    layer = TokenFeedForward(6, 9, num_experts=5, top_k=top_k).double()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight)
    x = torch.randn(2, 7, 6, dtype=torch.double)
    found = layer(x)
    for sample, row in zip(x, found, strict=True):
        for token, got in zip(sample, row, strict=True):
            probability = layer.router(token).softmax(0)
            gates, chosen = probability.topk(top_k)
            gates = gates / gates.sum() if top_k > 1 else gates
            outputs = [
                layer.w2[e] @ F.gelu(layer.w1[e] @ token + layer.b1[e]) + layer.b2[e]
                for e in chosen.tolist()
            ]
            wanted = torch.stack([g * y for g, y in zip(gates, outputs, strict=True)]).sum(0)
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_the_balance_loss_alone_spreads_tokens_over_the_experts() -> None:
    torch.manual_seed(0)
    layer = TokenFeedForward(8, 8, num_experts=4, top_k=1)
    x = torch.randn(4, 64, 8) + 1
    torch.nn.init.zeros_(layer.router.weight)
    with torch.no_grad():
        layer.router.weight[2] += 0.3  # expert 2 gets nearly everything
    optimizer = torch.optim.SGD(layer.router.parameters(), lr=0.5)
    balances = []
    for _ in range(60):
        layer(x)
        balances.append(layer.balance.item())
        optimizer.zero_grad()
        layer.balance.backward()
        optimizer.step()
    print(f"balance of 4 experts: {balances[0]:.2f} before, {balances[-1]:.2f} after")
    assert balances[0] > 2
    assert 1 <= balances[-1] < 1.2


def test_every_weight_of_a_routed_backbone_learns_also_with_checkpointing() -> None:
    results = []
    for checkpointing in (False, True):
        model = routed(checkpointing=checkpointing).train()
        maps = model(images(2))
        assert [m.shape[1] for m in maps] == [24] * 4
        balance = model.losses()["load_balance"]
        balances = [layer.ffn.balance for layer in model.layers]
        torch.testing.assert_close(balance, 0.01 * torch.stack(balances).mean())
        (loss_of(maps) + 100 * balance).backward()
        results.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, recomputed = results
    for name, gradient in plain.items():
        assert gradient is not None, name
        assert torch.equal(gradient, recomputed[name]), name
    assert all(plain[f"layers.{i}.ffn.router.weight"].any() for i in range(4))


def test_the_task_of_a_sample_changes_nothing_for_a_routed_backbone() -> None:
    model, batch = routed().eval(), images(2)
    for one, other in zip(model(batch, torch.tensor([0, 9])), model(batch), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("top_k", [0, 6])
def test_more_experts_for_a_token_than_there_are_are_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match=rf"top_k={top_k} must be in 1..5"):
        routed(top_k=top_k)
