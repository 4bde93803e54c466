"""Decoders that turn a feature pyramid into one map: UPerNet and a light one."""

from swath.core.heads.light import LightDecoder
from swath.core.heads.upernet import UPerNet

__all__ = ["LightDecoder", "UPerNet"]
