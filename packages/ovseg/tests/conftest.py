"""A CLIP, a specialist and models so small that a pass takes milliseconds."""

import torch

torch.set_num_threads(1)
