"""Train straight from a GeoTIFF with polygons as labels: no tiles on disk."""

import geopandas
import rasterio
from PIL import Image
from shapely.geometry import box

from swath.core.data.georaster import GeoRasterSegmentation
from swath.core.data.scenes import render_large
from swath.core.segmentation import SegmentationTask
from swath.core.viz import display_rgb, overlay

render_large("town.tif", seed=3, height=512, width=512)


with rasterio.open("town.tif") as town:
    left, bottom, right, top = town.bounds
    crs = town.crs
middle = (left + right) / 2
geopandas.GeoDataFrame(geometry=[box(left, bottom, middle, top)], crs=crs).to_file("west.gpkg")

dataset = GeoRasterSegmentation("town.tif", "west.gpkg", classes=("east", "west"), tile_px=256)
task = SegmentationTask(dataset.classes)
batch = task.collate([dataset[0], dataset[1]])
print(batch["image"].shape, batch["mask"].unique())

sample = dataset[0]
picture = overlay(display_rgb(sample.image), sample.targets["mask"], task.palette, hide=[0])
Image.fromarray(picture).save("labels.png")
