"""A model so small that a step takes milliseconds, and the recorded tensors."""

import torch

torch.set_num_threads(1)
