"""Runnable experiments; `swath configs` lists them."""
