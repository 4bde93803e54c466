import pytest
import torch
from torch import Tensor, nn

from swath.core.engine.muon import Muon, orthogonalised
from swath.core.engine.pieces import muon_cosine
from swath.core.errors import ConfigError


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8), (1, 16, 16)])
def test_the_directions_stay_and_the_lengths_become_about_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = orthogonalised(matrices)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    lengths = u.mT @ ours @ v.mT
    off = lengths - torch.diag_embed(lengths.diagonal(dim1=1, dim2=2))
    assert float(off.abs().max()) < 1e-12
    assert float(lengths.diagonal(dim1=1, dim2=2).min()) > 0.6
    assert float(lengths.diagonal(dim1=1, dim2=2).max()) < 1.3
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))


def moved(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int = 4) -> Tensor:
    """The weight after steps along the same gradients."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return weight.detach()


def weights(*shape: int) -> tuple[nn.Parameter, nn.Parameter]:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    return nn.Parameter(values), nn.Parameter(values.clone())


def test_matrices_move_as_torchs_muon_moves_them() -> None:
    ours, theirs = weights(24, 10)
    group = {"params": [ours], "lr": 0.02, "weight_decay": 0.1, "orthogonal": True}
    expected = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    # it iterates in bfloat16
    torch.testing.assert_close(
        moved(Muon([group]), ours), moved(expected, theirs), atol=5e-3, rtol=0
    )


def test_all_else_moves_as_by_adamw() -> None:
    ours, theirs = weights(7)
    group = {"params": [ours], "lr": 0.02, "weight_decay": 0.1}
    expected = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.1)
    torch.testing.assert_close(moved(Muon([group]), ours), moved(expected, theirs))


def test_matrices_of_a_shape_move_as_each_by_itself() -> None:
    first, second = weights(6, 4, 3, 3)
    with torch.no_grad():
        second.neg_()
    alone = [nn.Parameter(p.detach().clone()) for p in (first, second)]
    group = {"lr": 0.1, "weight_decay": 0.0, "orthogonal": True}
    gradients = torch.randn(2, 6, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    for p, q, gradient in zip((first, second), alone, gradients, strict=True):
        p.grad, q.grad = gradient, gradient.clone()
        Muon([{**group, "params": [q]}]).step()
    Muon([{**group, "params": [first, second]}]).step()
    torch.testing.assert_close(first, alone[0])
    torch.testing.assert_close(second, alone[1])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.words = nn.Embedding(10, 8)
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)


def test_weights_of_layers_are_orthogonal_steps_and_all_else_is_not() -> None:
    model = Network()
    optimizer = muon_cosine(lr=1e-3, weight_decay=0.1).build()(model, 10).optimizer
    groups = {p: g for g in optimizer.param_groups for p in g["params"]}
    names = {name for name, p in model.named_parameters() if groups[p]["orthogonal"]}
    assert names == {"conv.weight", "linear.weight"}
    undecayed = {name for name, p in model.named_parameters() if not groups[p]["weight_decay"]}
    assert undecayed == {"conv.bias", "linear.bias", "norm.weight", "norm.bias", "head.bias"}


def test_sharded_weights_are_refused() -> None:
    model = nn.Linear(8, 8)
    model.weight.full_tensor = None  # as those that fsdp splits have one
    with pytest.raises(ConfigError, match="Muon needs whole matrices"):
        muon_cosine(lr=1e-3).build()(model, 10)
