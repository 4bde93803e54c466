import pytest
import torch
from torch import nn

from swath.core.errors import ConfigError
from swath.mtl.optim import CoTrainingAdamW


class Two(nn.Module):
    """A backbone and a head, which may be left idle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(3, 3)
        self.head = nn.Linear(3, 1)
        self.query_embed = nn.Parameter(torch.ones(3))


def steps(idle: str) -> list[torch.Tensor]:
    """The head's weights after a step with it and three without."""
    model = Two()
    optimizer = CoTrainingAdamW(lr=0.1, weight_decay=0.1, idle=idle)(model, 100).optimizer  # type: ignore[arg-type]
    x, seen = torch.ones(1, 3), []
    for number in range(4):
        features = model.backbone(x)
        (model.head(features) if number == 0 else features).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(model.head.weight.detach().clone())
    return seen


def test_idle_weights_go_on_as_with_zero_gradients_or_stay() -> None:
    stay = steps("none")
    assert all(torch.equal(stay[0], later) for later in stay[1:])
    # the oracle: torch's AdamW, given zeros once the weight has been trained
    model = Two()
    torch_adamw = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    x, seen = torch.ones(1, 3), []
    for number in range(4):
        features = model.backbone(x)
        (model.head(features) if number == 0 else features).sum().backward()
        torch_adamw.step()
        torch_adamw.zero_grad(set_to_none=False)
        seen.append(model.head.weight.detach().clone())
    for got, want in zip(steps("zero"), seen, strict=True):
        torch.testing.assert_close(got, want)


def test_rates_and_decays_by_name() -> None:
    piece = CoTrainingAdamW(lr=1.0, weight_decay=0.5, lr_factors={"backbone": 0.1})
    groups = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in piece.groups(Two())}
    assert groups == {(0.1, 0.5): 2, (1.0, 0.5): 2, (1.0, 0.0): 1}
    assert CoTrainingAdamW().rate("heads.det.level_embed") == (5e-5, 0.0)
    assert CoTrainingAdamW().rate("heads.seg.level_encoding.weight") == (5e-5, 1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, r"optimizer\.lr=0\.0"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0"),
        ({"milestones": [240_000]}, "must be shares"),
        ({"idle": "zeros"}, "must be 'zero' or 'none'"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CoTrainingAdamW(**arguments)  # type: ignore[arg-type]
