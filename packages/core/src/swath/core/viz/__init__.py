"""Pictures of data, predictions and runs, for people.

Arrays in, arrays or matplotlib `Figure` objects out; nothing here touches pyplot's global state, so
it works in servers, threads and notebooks alike.
"""

from swath.core.palette import PALETTE, default_palette
from swath.core.viz.figures import confusion, curve, legend, panels, training_curves
from swath.core.viz.overlay import (
    colourise,
    difference,
    display_rgb,
    feature_rgb,
    overlay,
)

__all__ = [
    "PALETTE",
    "colourise",
    "confusion",
    "curve",
    "default_palette",
    "difference",
    "display_rgb",
    "feature_rgb",
    "legend",
    "overlay",
    "panels",
    "training_curves",
]
