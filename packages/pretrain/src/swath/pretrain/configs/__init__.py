"""Runnable experiments of S4P pre-training, listed by ``swath configs``."""
