"""Weighted sums of rows in a fixed order: what atomic additions do, but repeatable."""
