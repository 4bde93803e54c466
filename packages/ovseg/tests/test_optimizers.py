"""How the open-vocabulary models are trained."""

import pytest
from torch import nn

from swath.core.errors import ConfigError
from swath.ovseg.optimizers import OpenVocabularyAdamW, OpenVocabularyMuon

Kind = type[OpenVocabularyAdamW] | type[OpenVocabularyMuon]
KINDS = (OpenVocabularyAdamW, OpenVocabularyMuon)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clip = nn.Linear(8, 8)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_clip_learns_slower_and_norms_have_no_decay(kind: Kind) -> None:
    model = Small()
    groups = kind(lr=1.0, weight_decay=0.5, clip_multiplier=0.1)(model, 10).optimizer.param_groups
    found = {p: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    first, norm, last = model.head
    assert {found[p] for p in model.clip.parameters()} == {(0.1, 0.5)}
    assert {found[p] for layer in (first, last) for p in layer.parameters()} == {(1.0, 0.5)}
    assert {found[p] for p in norm.parameters()} == {(1.0, 0.0)}
    assert len(found) == sum(len(g["params"]) for g in groups) == 8


def test_muon_moves_matrices_and_adamw_all_else() -> None:
    model = Small()
    groups = OpenVocabularyMuon()(model, 10).optimizer.param_groups
    orthogonal = {p for g in groups if g["orthogonal"] for p in g["params"]}
    assert orthogonal == {model.clip.weight, model.head[0].weight}  # one row is no matrix


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_falls_as_a_cosine_to_nothing(kind: Kind) -> None:
    factor = kind()(Small(), 10).factor
    assert [factor(step) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_model_is_refused(kind: Kind) -> None:
    with pytest.raises(ConfigError, match="no trainable parameters"):
        kind()(Small().requires_grad_(False), 10)


def test_a_frozen_clip_is_left_out() -> None:
    model = Small()
    model.clip.requires_grad_(False)
    groups = OpenVocabularyMuon()(model, 10).optimizer.param_groups
    assert {p for g in groups for p in g["params"]} == set(model.head.parameters())
