"""Fused operators and rotated-box geometry."""
