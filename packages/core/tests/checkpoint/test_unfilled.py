import threading

import pytest
import torch
from torch import Tensor, nn

from swath.core.checkpoint.unfilled import build_unfilled


class Small(nn.Module):
    """A layer of each kind that models of ours have, a tie, and constants of several makings."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.embedding = nn.Embedding(5, 8, padding_idx=0)
        self.first = nn.Linear(8, 5)
        self.first.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        nn.init.trunc_normal_(self.convolution.weight, std=0.02)
        nn.init.xavier_uniform_(self.attention.in_proj_weight)
        table = torch.empty(4, 2)
        table[:, 0], table[:, 1] = torch.arange(4.0), 1.0
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convolution(x)).flatten(2).permute(2, 0, 1)
        x = self.first(self.attention(x, x, x)[0])
        return x * self.frozen.sum() + self.table.sum()


def test_once_filled_it_is_the_model_built_as_always() -> None:
    torch.manual_seed(0)
    wanted = Small().eval()
    model = build_unfilled(Small).eval()
    model.load_state_dict(wanted.state_dict())
    image = torch.randn(2, 3, 6, 6)
    assert model(image).equal(wanted(image))
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert model.table.equal(wanted.table)


def test_ties_and_frozen_weights_stay() -> None:
    model = build_unfilled(Small)
    assert model.first.weight is model.embedding.weight
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["frozen"]
    assert model.convolution.weight.is_leaf


def test_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = []

    def kaiming(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        filled.append(tensor.is_meta)
        return tensor

    monkeypatch.setattr(nn.init, "kaiming_uniform_", kaiming)
    before = torch.get_rng_state()
    build_unfilled(Small)
    assert torch.get_rng_state().equal(before)
    assert filled == [True] * len(filled) != []


def test_other_threads_draw_as_always() -> None:
    built: list[nn.Linear] = []

    def build() -> nn.Linear:
        other = threading.Thread(target=lambda: built.append(nn.Linear(3, 3)))
        other.start()
        other.join()
        return nn.Linear(3, 3)

    build_unfilled(build)
    assert not built[0].weight.is_meta
    assert 0 < built[0].weight.abs().max() < 1


def test_a_model_that_fails_to_build_leaves_nothing_behind() -> None:
    def fails() -> nn.Module:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_unfilled(fails)
    assert not nn.Linear(2, 2).weight.is_meta
