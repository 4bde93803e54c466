from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine

from swath.core.errors import ConfigError
from swath.core.geo.raster import GeoImage, RasterInfo
from swath.core.inference.results import SegmentationResult, check_format

MASK = np.zeros((60, 80), np.uint8)
MASK[10:30, 20:60] = 1
MASK[50:] = 255
PLACE = RasterInfo(
    None, 80, 60, crs=CRS.from_epsg(32633), transform=Affine(0.5, 0, 4e5, 0, -0.5, 5e6)
)


def result() -> SegmentationResult:
    image = np.random.default_rng(0).integers(0, 255, (3, 60, 80)).astype(np.uint8)
    return SegmentationResult(
        info=PLACE,
        classes=("field", "<roof>"),
        palette=((0, 200, 0), (200, 0, 0)),
        counts=np.bincount(MASK[MASK != 255], minlength=2),
        image=GeoImage(image, MASK != 255, PLACE),
        _mask=MASK,
    )


@pytest.mark.parametrize("saved", [False, True])
def test_polygons_have_the_area_and_the_place_of_their_class(tmp_path: Path, saved: bool) -> None:
    found = result()
    if saved:
        path = found.save(tmp_path / "m.tif")
        found = SegmentationResult(PLACE, found.classes, found.palette, found.counts, path=path)
    table = found.to_gdf().set_index("class")
    assert table.crs.to_epsg() == 32633
    assert table["area_px"].to_dict() == {"field": 3200, "<roof>": 800}
    np.testing.assert_allclose(table.loc["<roof>"].geometry.area, 800 * 0.25)
    np.testing.assert_allclose(table.loc["<roof>", "area_m2"], 800 * 0.25, rtol=2e-3)
    assert table.loc["<roof>"].geometry.bounds == (4e5 + 10, 5e6 - 15, 4e5 + 30, 5e6 - 5)


def test_xarray_knows_coordinates_classes_and_nodata() -> None:
    array = result().to_xarray()
    np.testing.assert_array_equal(array.values, MASK)
    assert array.rio.crs.to_epsg() == 32633
    assert array.rio.nodata == 255
    assert array.rio.transform() == PLACE.transform
    assert array.attrs["classes"] == ["field", "<roof>"]
    assert float(array.x[0]) == 4e5 + 0.25
    assert float(array.sel(x=4e5 + 15.2, y=5e6 - 10.2, method="nearest")) == 1


def test_the_picture_shows_the_classes_that_occur() -> None:
    figure = result().plot()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["field", "<roof>"]
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == (60, 80, 3)
    roof, field = shown[10:30, 20:60].mean((0, 1)), shown[30:50].mean((0, 1))
    assert roof[0] > roof[1]
    assert field[1] > field[0]


def test_a_class_in_black_stays_clear() -> None:
    found = replace(result(), palette=((0, 0, 0), (200, 0, 0)))
    shown = np.asarray(found.plot().axes[0].images[0].get_array())
    plain = found.image.array.transpose(1, 2, 0)
    np.testing.assert_array_equal(shown[30:50], plain[30:50])
    assert not np.array_equal(shown[10:30, 20:60], plain[10:30, 20:60])


def test_a_notebook_shows_picture_shares_and_crs() -> None:
    text = result()._repr_html_()
    assert "data:image/png;base64," in text
    assert "&lt;roof&gt;" in text
    assert "<roof>" not in text
    assert "20.0%" in text
    assert "EPSG:32633" in text


@pytest.mark.parametrize("name", ["answers", "scene.2020_results", "v1.5"])
def test_results_of_several_tasks_go_into_a_folder_of_any_name(name: str) -> None:
    check_format(Path(name), "several tasks")


@pytest.mark.parametrize("name", ["answers.tif", "answers.GPKG", "answers.json", "answers.txt"])
def test_results_of_several_tasks_are_no_file(name: str) -> None:
    with pytest.raises(ConfigError, match=f"leave '{Path(name).suffix}' out, or choose one task"):
        check_format(Path(name), "several tasks")
