"""Runnable experiments of open-vocabulary segmentation, listed by ``swath configs``."""
