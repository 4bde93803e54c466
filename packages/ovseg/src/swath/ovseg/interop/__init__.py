"""Bridges to the frameworks of the official repositories; each module needs its framework."""
