"""Whole models of core: plain `nn.Module`s that know tensors only."""
