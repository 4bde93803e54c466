"""Runnable experiments of MoE-MDF, listed by ``swath configs``."""
