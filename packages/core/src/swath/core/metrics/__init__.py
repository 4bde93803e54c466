"""Figures of merit that accumulate over batches, tiles and ranks."""
