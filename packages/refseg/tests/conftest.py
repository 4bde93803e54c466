"""What all tests of the package share."""

import torch

torch.set_num_threads(1)
