"""Models of MoE-MDF: plain `nn.Module`s that know tensors only."""
