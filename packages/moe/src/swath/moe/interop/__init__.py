"""Bridges to other frameworks; each module needs its framework."""
