"""Rotated IoU on the CPU."""

from swath.kernels.ops.rotated_iou.reference import intersection, intersection_backward

__all__ = ["intersection", "intersection_backward"]
