"""Rasters with their place on earth: reading, writing, windows, vectorising."""
