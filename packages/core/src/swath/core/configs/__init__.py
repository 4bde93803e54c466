"""Runnable experiments of core, one module each; ``swath configs`` lists them."""
