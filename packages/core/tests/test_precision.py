import pytest
import torch
from torch import Tensor, nn

from swath.core.precision import autocast, in_float32


class Product(nn.Module):
    """A layer that autocast narrows, and the same one kept as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 8)

    def narrow(self, x: Tensor) -> Tensor:
        product: Tensor = self.layer(x)
        return product

    @in_float32
    def exact(self, parts: list[Tensor], nothing: None = None) -> Tensor:
        return self.narrow(parts[0]) + parts[1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_method_stays_in_float32_under_autocast(precision: str) -> None:
    torch.manual_seed(0)
    module, x = Product(), torch.randn(4, 64)
    wanted = module.layer(x) + 1
    with autocast(torch.device("cpu"), precision):
        assert module.narrow(x).dtype != torch.float32
        found = module.exact([x, torch.ones(8).bfloat16()], None)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


def test_without_autocast_nothing_is_cast() -> None:
    module, x = Product().double(), torch.randn(4, 64).double()
    with autocast(torch.device("cpu"), "fp32"):
        assert module.narrow(x).dtype == torch.float64
        assert module.exact([x, torch.ones(8).double()]).dtype == torch.float64
