"""What must work with the swath-kernels wheel alone."""

import importlib.util
import math

import torch

from swath.kernels import boxes_to_quads

assert importlib.util.find_spec("swath.core") is None, "swath.core came along"
quads = boxes_to_quads(torch.tensor([[10.0, 20.0, 4.0, 2.0, math.pi / 2]]))
assert torch.allclose(quads.mean(dim=-2), torch.tensor([[10.0, 20.0]]), atol=1e-5)
print("swath.kernels works from its wheel")
