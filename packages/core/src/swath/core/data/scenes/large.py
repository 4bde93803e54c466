"""One large georeferenced scene, written window by window with its truth."""

from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import from_origin

from swath.core.data.scenes.domains import CLASS_SETS
from swath.core.data.scenes.paint import Painter, Sensor
from swath.core.data.scenes.plan import Plan
from swath.core.data.scenes.scene import VERSION, find_domain
from swath.core.data.scenes.world import lay_out_region
from swath.core.errors import DataError, suggest
from swath.core.geo.raster import RasterInfo, RasterWriter
from swath.core.geo.windows import grid
from swath.core.progress import track

_WINDOW = 256  # one tile of the files


def render_large(
    path: str | Path,
    seed: int = 0,
    height: int = 2048,
    width: int = 2048,
    domain: str = "temperate",
    *,
    crs: str = "EPSG:32636",
    origin: tuple[float, float] = (450_000.0, 40_000.0),
    class_set: str = "full",
    progress: bool = False,
) -> Path:
    """Write one large scene as GeoTIFF, and beside it the truth of every pixel.

    The whole world is laid out once as vectors and painted window by window, so that memory
    holds the vectors and one window. The truth is ``<stem>_truth.tif``: uint8, nodata 255, with
    colour table and class names.

    Args:
        path: Where to write; an existing file is replaced.
        seed: Everything follows from it.
        height: Rows.
        width: Columns.
        domain: A name out of `DOMAINS`; its first GSD is the pixel size.
        crs: A projected reference system in metres.
        origin: Easting and northing of the upper left corner.
        class_set: How the truth's classes are grouped; a name out of `CLASS_SETS`.
        progress: Show a bar.

    Returns:
        The path of the truth raster.

    Raises:
        DataError: If a name is unknown or the scene is smaller than 32 pixels.
    """
    place = find_domain(domain)
    if class_set not in CLASS_SETS:
        raise DataError(
            f"scenes have no class set '{class_set}'{suggest(class_set, list(CLASS_SETS))}"
        )
    if min(height, width) < 32 or seed < 0:
        raise DataError(
            f"a large scene needs sides >= 32 and seed >= 0; got {height} x {width}, seed {seed}"
        )
    source, truth = Path(path), Path(path).with_name(f"{Path(path).stem}_truth.tif")
    gsd_m = place.gsd_m[0]
    plan = Plan(height, width, gsd_m, place, seed)
    sensor = Sensor(plan)
    lay_out_region(plan)
    painter = Painter(plan, sensor)
    chosen = CLASS_SETS[class_set]
    lookup = np.array(chosen.lookup(), np.uint8)
    info = RasterInfo(
        source,
        width,
        height,
        crs=CRS.from_user_input(crs),
        transform=from_origin(*origin, gsd_m, gsd_m),
    )
    windows = list(grid(height, width, _WINDOW))
    with (
        RasterWriter(
            source, info, count=3, tags={"SWATH_SCENE": f"{VERSION} {domain} {seed}"}
        ) as scene,
        RasterWriter(
            truth, info, nodata=255, palette=chosen.palette, classes=chosen.classes
        ) as labels,
    ):
        for window in track(windows, "Painting the scene", unit="tiles", enabled=progress):
            part = painter.window(window.row_off, window.col_off, window.height, window.width)
            scene.write(window, part.planes)
            labels.write(window, lookup.take(part.mask))
    return truth
