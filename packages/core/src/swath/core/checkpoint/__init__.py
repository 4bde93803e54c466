"""Checkpoints: opened without executing code, converted from official layouts, saved atomically."""
