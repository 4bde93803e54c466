"""What must work with the swath-core wheel and its dependencies alone."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from swath.core import load_model

assert importlib.util.find_spec("swath.moe") is None, "a paradigm came along"
swath = Path(sys.executable).with_name("swath")
for arguments in (["--help"], ["models"], ["configs"], ["datasets"], ["doctor"]):
    subprocess.run([str(swath), *arguments], check=True, stdout=subprocess.DEVNULL)

with tempfile.TemporaryDirectory() as folder:
    scene, mask = Path(folder, "scene.tif"), Path(folder, "mask.tif")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 200, 300), np.uint8)
    profile = {"driver": "GTiff", "count": 3, "height": 200, "width": 300, "dtype": "uint8"}
    place = {"crs": "EPSG:32636", "transform": from_origin(450_000, 40_000, 0.1, 0.1)}
    with rasterio.open(scene, "w", **profile, **place) as file:
        file.write(pixels)
    load_model("swath-small").predict(scene).save(mask)
    with rasterio.open(mask) as file:
        assert (file.crs, file.transform) == (place["crs"], place["transform"])
print("swath.core works from its wheel")
