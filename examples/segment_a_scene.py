"""Segment a large georeferenced scene and measure what covers it."""

from swath.core import load_model
from swath.core.data.scenes import render_large
from swath.core.viz.scene import class_areas

render_large("scene.tif", seed=1, height=768, width=1024)

model = load_model("swath-small")
result = model.predict("scene.tif", out="mask.tif")
result.save("mask.gpkg")

areas = class_areas("mask.tif", len(model.task.classes))
for name, square_metres in zip(model.task.classes, areas.square_metres, strict=True):
    print(f"{name:>12} {square_metres / 10_000:8.2f} ha")
