"""Render a few scenes of every domain and look at them beside their labels."""

from pathlib import Path

import numpy as np

from swath.core.data.scenes import CLASSES, DOMAINS, PALETTE, render
from swath.core.viz import colourise, panels

pictures = {}
for domain in DOMAINS:
    scene = render(seed=7, size=256, domain=domain, kind="residential")
    pictures[domain] = np.asarray(scene.image)
    pictures[f"{domain}, labels"] = colourise(scene.mask, PALETTE)

figure = panels(pictures, columns=4, classes=CLASSES, palette=PALETTE)
figure.savefig("scenes.png")
print(Path("scenes.png").resolve())
